package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"github.com/berthd/berth/snapshot/durable"
)

// A record is a line of JSON and a line with its checksum. One without a checksum is from
// before there were any.

// recordSum is the second line.
const recordSum = "crc32c %08x\n"

// writeRecord writes a record to path. It does not wait for the disk.
func writeRecord(path string, rec any) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	return durable.Replace(path, fmt.Appendf(data, recordSum, crc32.Checksum(data, castagnoli)), 0o600)
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

// isUnread tells whether a record could not be read at all (no descriptors left, a bad
// disk): it may be whole, and its container may run.
func isUnread(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && !isGone(err) && !isDirectory(err)
}
