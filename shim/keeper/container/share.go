package container

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
)

// A Filter is a compiled seccomp filter, for another process of this release: what libseccomp
// makes of a profile depends on nothing but the profile, its own version and the kernel.
type Filter struct {
	Key     []byte // the SHA-256 of the profile
	Program []byte // the kernel's instructions
}

// Add takes over filters that another process has compiled. Those that are there stay.
func (f *Filters) Add(filters []Filter) error {
	var errs []error
	for _, add := range filters {
		errs = append(errs, f.add(add))
	}
	return errors.Join(errs...)
}

func (f *Filters) add(filter Filter) error {
	if len(filter.Key) != sha256.Size {
		return errors.New("a filter without a key")
	}
	key := [sha256.Size]byte(filter.Key)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.known[key]; ok || len(f.known) >= maxFilters {
		return nil
	}
	file, err := filterFile(filter.Program)
	if err != nil {
		return err
	}
	f.known[key] = known{filter: func() *os.File { return file }}
	f.files[key] = file
	return nil
}

// List is the filters that are there.
func (f *Filters) List() (all []Filter, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, file := range f.files {
		program, err := io.ReadAll(io.NewSectionReader(file, magicSize, maxFilter))
		if err != nil {
			return nil, err
		}
		all = append(all, Filter{Key: key[:], Program: program})
	}
	return all, nil
}
