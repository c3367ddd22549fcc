package rest

import (
	"debug/elf"
	"sync"

	"golang.org/x/sys/unix"
)

// letGo unmaps the pages of the program that hold code and constants. What is needed of them
// is mapped again as it is used, a dozen pages at a time, out of the page cache, where they stay
// as long as the kernel sees no better use for them: what is mapped is what was used since. A
// debugger's breakpoints in the code go, too.
func letGo(parts []part) {
	for _, p := range parts {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.begin, p.end-p.begin, unix.MADV_DONTNEED) // else they stay mapped
	}
}

// A part is a range of addresses, of whole pages.
type part struct{ begin, end uintptr }

// program is the parts of the running program that it cannot have written to. A part that is
// writable, or was while it was loaded (RELRO), holds what is in no file. There are none of a
// program that is loaded at any address (PIE).
var program = sync.OnceValue(func() (parts []part) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC { // where it is loaded is not in the file
		return nil
	}
	page := uint64(unix.Getpagesize())
	for _, s := range f.Progs {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_W != 0 {
			continue
		}
		p := part{uintptr(s.Vaddr &^ (page - 1)), uintptr((s.Vaddr + s.Filesz) &^ (page - 1))} // the last page may be another part's
		if p.end > p.begin {
			parts = append(parts, p)
		}
	}
	return parts
})
