package rest

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A mapping is what /proc/self/smaps says of one, in KiB.
type mapping struct {
	begin, end      uintptr
	perms           string
	rss, notOfAFile int
}

func mappings(t *testing.T) (all []mapping) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var m mapping
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &m.begin, &m.end, &m.perms); err == nil {
			all = append(all, m)
			continue
		}
		last := &all[len(all)-1]
		_, _ = fmt.Sscanf(lines.Text(), "Rss: %d kB", &last.rss)
		_, _ = fmt.Sscanf(lines.Text(), "Anonymous: %d kB", &last.notOfAFile)
	}
	return all
}

// TestLetGo: the program's code and constants are all that is let go of; nothing of it is lost
// with that, and little of it is mapped afterwards.
func TestLetGo(t *testing.T) {
	parts := program()
	if len(parts) == 0 {
		t.Skip("this test's program is loaded where the loader likes (PIE)")
	}
	within := func() (rss int) {
		for _, m := range mappings(t) {
			for _, p := range parts {
				if m.end <= p.begin || m.begin >= p.end {
					continue
				}
				rss += m.rss
				if strings.Contains(m.perms, "w") || m.notOfAFile > 0 {
					t.Errorf("%x-%x %s, with %d KiB that are in no file, is among what is let go of", m.begin, m.end, m.perms, m.notOfAFile)
				}
			}
		}
		return rss
	}
	before := within()
	letGo(parts)
	if after := within(); after >= before {
		t.Errorf("%d KiB are mapped, and %d were", after, before)
	}
}
