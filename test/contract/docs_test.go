package contract

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// page is where every RPC and field has its row.
const page = "../../docs/cri.md"

// fields are all messages of the API with their fields, as "Message.field".
func fields() map[string]bool {
	out := map[string]bool{}
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if !m.IsMapEntry() {
				out[string(m.Name())+"."+string(f.Name())] = true
			}
			if f.Message() != nil {
				walk(f.Message())
			}
		}
	}
	for _, m := range methods() {
		walk(m.Input())
		walk(m.Output())
	}
	return out
}

// row of a table: the name in backquotes, what it does, its tests.
var line = regexp.MustCompile("^\\| `([A-Za-z0-9_.*]+)` \\| (.+) \\| (.+) \\|$")

// TestDocs holds docs/cri.md to the API: every RPC and every field has a row, no
// row is of what the API has not, and every test that a row names is there. Only
// Windows' fields, deprecated ones and what is not built may do without a test.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for text := range strings.Lines(string(data)) {
		m := line.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			continue
		}
		if rows[m[1]] {
			t.Errorf("%s has two rows", m[1])
		}
		rows[m[1]] = true
		checkTests(t, m[1], m[2], m[3])
	}
	all := methods()
	for name := range all {
		if !rows[name] {
			t.Errorf("RPC %s has no row in %s", name, page)
		}
	}
	known := fields()
	for name := range known {
		message, _, _ := strings.Cut(name, ".")
		if !rows[name] && !rows[message+".*"] {
			t.Errorf("field %s has no row in %s", name, page)
		}
	}
	for name := range rows {
		message, _, _ := strings.Cut(name, ".")
		whole := strings.HasSuffix(name, ".*") && (strings.HasPrefix(message, "Windows") || strings.Contains(message, "Checkpoint") || strings.HasPrefix(message, "Restore"))
		if all[name] == nil && !known[name] && !whole {
			t.Errorf("%s: %s: the API has no such thing", page, name)
		}
	}
}

// checkTests looks for the tests of a row in their folders.
func checkTests(t *testing.T, name, does, tests string) {
	t.Helper()
	if tests == "–" {
		if !strings.Contains(does, "Windows only") && !strings.Contains(does, "deprecated") {
			t.Errorf("%s has no test", name)
		}
		return
	}
	for _, test := range strings.Split(tests, ", ") {
		folder, fn, ok := strings.Cut(strings.Trim(test, "`"), ":")
		if !ok || !hasTest(t, folder, fn) {
			t.Errorf("%s: there is no test %s", name, test)
		}
	}
}

// hasTest looks for a function among a folder's tests.
func hasTest(t *testing.T, folder, fn string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "\nfunc "+fn+"(") {
			return true
		}
	}
	return false
}

// fault is a row of docs/security.md: what went wrong, the rule, the tests.
var fault = regexp.MustCompile("^\\| (.+) \\| (.+) \\| (–|`.+`) \\|$")

// TestSecurityDocs looks for the tests that docs/security.md and docs/threat-model.md name.
func TestSecurityDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	checkFaults(t, string(data), 20)
	if data, err = os.ReadFile("../../docs/threat-model.md"); err != nil {
		t.Fatal(err)
	}
	_, done, _ := strings.Cut(string(data), "## What berth does\n")
	checkFaults(t, done, 15)
}

// checkFaults looks for the tests in the rows of a table, of which there are some.
func checkFaults(t *testing.T, rows string, least int) {
	t.Helper()
	n := 0
	for text := range strings.Lines(rows) {
		m := fault.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			continue
		}
		n++
		if m[3] == "–" {
			if !strings.Contains(m[2], "not") {
				t.Errorf("%s has no test", m[1])
			}
			continue
		}
		checkTests(t, m[1], m[2], m[3])
	}
	if n < least {
		t.Errorf("%d rows, want %d at least", n, least)
	}
}
