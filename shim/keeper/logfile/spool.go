package logfile

import (
	"fmt"
	"os"
	"sync"
)

// punchSize is how much of a spool is given back at once, in bytes, while it is not empty.
const punchSize = 256 << 10

// A spool is the file that has what was taken from a stream. Its offsets grow until it is
// empty.
type spool struct {
	mu      sync.Mutex // order: after a Log's
	f       *os.File
	size    int64
	punched int64
}

// openSpool opens the spool at path and makes it if need be.
func openSpool(path string) (*spool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &spool{f: f, size: st.Size()}, nil
}

// end is the spool's size.
func (s *spool) end() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// read fills p from offset at.
func (s *spool) read(p []byte, at int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, err := s.f.ReadAt(p, at); n < len(p) {
		return fmt.Errorf("log spool: %w", err)
	}
	return nil
}

// put adds p to the spool. It is for what cannot be spliced.
func (s *spool) put(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.f.WriteAt(p, s.size)
	s.size += int64(n)
	return err
}

// free gives back the memory of what is before to.
func (s *spool) free(from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := from <= s.punched
	from = max(from, s.punched)
	if to-from < punchSize {
		return
	}
	punch(s.f, from, to-from)
	if last { // all before is free too
		s.punched = to &^ 4095
	}
}

// empty makes the spool empty when all of it is consumed, and says whether it is.
func (s *spool) empty(consumed int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if consumed != s.size || s.f.Truncate(0) != nil {
		return false
	}
	s.size, s.punched = 0, 0
	return true
}

// toMemory goes on in memory with what is not consumed.
func (s *spool) toMemory(consumed int64) error {
	m, err := memory("log-spool")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := make([]byte, s.size-consumed)
	if len(rest) > 0 {
		if _, err = s.f.ReadAt(rest, consumed); err == nil {
			_, err = m.WriteAt(rest, consumed)
		}
	}
	if err == nil {
		err = m.Truncate(s.size)
	}
	if err != nil {
		m.Close()
		return err
	}
	_ = s.f.Truncate(0)
	s.f.Close()
	s.f = m
	return nil
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.Close()
}
