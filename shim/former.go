package shim

import (
	"fmt"
	"os"

	"github.com/berthd/berth/shim/keeper/successor"
)

// A former is the program that a shim executed before it was to execute another one, which
// may turn out not to run. It need not have a name any more.
type former struct {
	file  *os.File
	next  os.FileInfo // that other one
	tried bool        // it was executed
}

// openFormer opens the program that a process executes, for when next does not run.
func openFormer(pid int, next os.FileInfo) (*former, error) {
	file, err := os.Open(exeOf(pid))
	if err != nil {
		return nil, err
	}
	return &former{file: file, next: next}, nil
}

func (f *former) close() {
	if f != nil {
		f.file.Close()
	}
}

// setFormer notes the program that a shim has executed until now; nil: it is of no use any
// more.
func (p *process) setFormer(f *former) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.former.close()
	p.former = f
}

// programFor is what is executed to start a shim, and the name that it gets: Options.Binary,
// unless that is the program that did not run in its place.
func (s *Shims) programFor(p *process) (path, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.former == nil || !p.former.tried {
		if p.former != nil {
			p.former.tried = true
		}
		return s.o.Binary, s.o.Binary
	}
	if now, err := os.Stat(s.o.Binary); err == nil && !os.SameFile(now, p.former.next) {
		return s.o.Binary, s.o.Binary // there is a new one
	}
	fd, err := successor.Number(p.former.file)
	if err != nil {
		return s.o.Binary, s.o.Binary
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), s.o.Binary // in the child it may be another one's
}
