package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/snapshot/durable"
)

// A record is a line of JSON and a line with its checksum. One without a checksum is from
// before there were any.

// recordSum is the second line.
const recordSum = "crc32c %08x\n"

// writeRecord writes a record to path. It does not wait for the disk.
func writeRecord(path string, rec any) error {
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	return durable.Replace(path, data, 0o600)
}

// storeRecord writes a record to path and waits until it is on disk.
func storeRecord(path string, rec any) error {
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o600)
}

func encodeRecord(rec any) ([]byte, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	return fmt.Appendf(data, recordSum, crc32.Checksum(data, castagnoli)), nil
}

// readRecord reads a record: ErrNotFound when it is absent, ErrDamaged when it is not what
// was written.
func readRecord(path string, into any) error {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", path, ErrNotFound)
	case isBadDisk(err):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return err
	}
	if end := bytes.IndexByte(data, '\n') + 1; end > 0 {
		if string(data[end:]) != fmt.Sprintf(recordSum, crc32.Checksum(data[:end], castagnoli)) {
			return fmt.Errorf("%s: checksum does not match: %w", path, ErrDamaged)
		}
		data = data[:end]
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

// eachRecord calls f with the path of every record in dir, a file <name>.json, what it says,
// and readRecord's error. It removes what writes cut short by a crash have left.
func eachRecord[T any](dir string, f func(path, name string, rec T, err error) error) error {
	if err := durable.Sweep(dir); err != nil {
		return err
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range found {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		var rec T
		path := filepath.Join(dir, e.Name())
		err := readRecord(path, &rec)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err := f(path, name, rec, err); err != nil {
			return err
		}
	}
	return nil
}

// isUnread tells whether a record could not be read at all (no descriptors left, a bad
// disk): it may be whole, and its container may run.
func isUnread(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && !isGone(err) && !isDirectory(err)
}
