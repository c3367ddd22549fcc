package quota

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxNames bounds what is read of a file of names.
const maxNames = 16 << 20

// reservedIn lists the IDs that the files of the quota tools name, in the format of projid(5),
// name:ID, and projects(5), ID:path. Either file may be absent.
func reservedIn(projid, projects string) (map[uint32]bool, error) {
	ids := make(map[uint32]bool)
	for path, field := range map[string]int{projid: 1, projects: 0} {
		if err := readIDs(path, field, ids); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func readIDs(path string, field int, into map[uint32]bool) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxNames))
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ":", 2)
		if len(parts) != 2 {
			continue // a comment, or nothing that the tools would understand
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(parts[field]), 10, 32); err == nil {
			into[uint32(id)] = true
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
