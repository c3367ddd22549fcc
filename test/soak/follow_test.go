package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadLog: a line that is lost, doubled or torn is a finding, and so is a job's missing end.
func TestReadLog(t *testing.T) {
	lines := func(from, to int) string {
		var b strings.Builder
		for i := from; i <= to; i++ {
			fmt.Fprintf(&b, "2026-01-02T03:04:05.000000006Z stdout F %d\n", i)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		parts []string
		bad   bool
	}{
		"whole":        {[]string{lines(1, jobLines)}, false},
		"in two parts": {[]string{lines(1, 90), lines(91, jobLines)}, false},
		"lost":         {[]string{lines(1, 90), lines(92, jobLines)}, true},
		"doubled":      {[]string{lines(1, 90), lines(90, jobLines)}, true},
		"torn":         {[]string{lines(1, 90) + "2026-01-02T0", lines(91, jobLines)}, true},
		"without end":  {[]string{lines(1, jobLines-1)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "job-0.log")
			for i, text := range c.parts {
				path := log
				if i < len(c.parts)-1 {
					path = fmt.Sprintf("%s.%d", log, i+1)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			m := &motion{}
			m.readLog(&container{log: log, rotated: len(c.parts) - 1, exited: true, codes: []int32{0}}, false)
			if bad := len(m.found()) > 0; bad != c.bad {
				t.Errorf("findings: %v", m.found())
			}
		})
	}
}
