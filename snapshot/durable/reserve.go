package durable

import (
	"errors"
	"io/fs"
	"os"
	"sync"
)

// leastReserve is the smallest reserve that is kept where there is no room for more, in bytes.
const leastReserve = 256 << 10

// A Reserve is space on a disk that is given up when it is full, so that what frees more can
// be written down. It is a file of nothing. A nil one has none.
type Reserve struct {
	path string
	size int64

	mu sync.Mutex
}

// NewReserve is a reserve of size bytes in the file at path, which may be there. Fill it.
func NewReserve(path string, size int64) *Reserve { return &Reserve{path: path, size: size} }

// GiveUp frees the space.
func (r *Reserve) GiveUp() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Fill takes the space, as much as there is of it. On an error there is no reserve.
func (r *Reserve) Fill() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := r.size; ; size /= 2 {
		if err = allocate(f, size); err == nil {
			return nil
		}
		if size/2 < leastReserve || !IsFull(err) {
			return errors.Join(err, os.Remove(r.path))
		}
	}
}
