package tally

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// A Tally counts tests by how they ended.
type Tally struct{ Passed, Failed, Skipped int }

func (t *Tally) Add(o Tally) {
	t.Passed += o.Passed
	t.Failed += o.Failed
	t.Skipped += o.Skipped
}

// An event is a line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
}

// A result is what is known of one test, or of a package when test is empty.
type result struct {
	output strings.Builder
	parent bool // it has subtests, which are counted in its place
	action string
}

// Count reads go test -json and writes the output of what failed. A skip for want
// of a privilege is a failure.
func Count(in io.Reader, out io.Writer) (Tally, error) {
	privilege := regexp.MustCompile(`(?i)\broot\b|privilege|permi(ssion|tted)|CAP_`)
	results := map[string]*result{}
	of := func(pkg, test string) *result {
		key := pkg + " " + test
		if results[key] == nil {
			results[key] = &result{}
		}
		return results[key]
	}
	var t Tally
	failedIn := map[string]bool{}
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(out, sc.Text()) // not of go test
			continue
		}
		r := of(e.Package, e.Test)
		switch e.Action {
		case "run":
			if i := strings.LastIndexByte(e.Test, '/'); i > 0 {
				of(e.Package, e.Test[:i]).parent = true
			}
		case "output":
			r.output.WriteString(e.Output)
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "pass", "fail", "skip":
			action := e.Action
			if action == "skip" && e.Test != "" && privilege.MatchString(r.output.String()) {
				action = "fail"
			}
			if e.Test == "" && (action != "fail" || failedIn[e.Package]) {
				continue
			}
			if action == "fail" {
				fmt.Fprintf(out, "--- FAIL %s %s\n%s", e.Package, e.Test, r.output.String())
				failedIn[e.Package] = true
			}
			t.one(action, r.parent && !(action == "fail" && ownFailure(r.output.String())))
			r.output.Reset()
		}
	}
	return t, sc.Err()
}

// ownFailure tells whether a test with subtests failed by itself too: it then
// printed more than the frames of go test.
func ownFailure(output string) bool {
	for line := range strings.Lines(output) {
		l := strings.TrimSpace(line)
		if l != "" && !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") && strings.Contains(l, "_test.go:") {
			return true
		}
	}
	return false
}

func (t *Tally) one(action string, parent bool) {
	switch {
	case parent:
	case action == "pass":
		t.Passed++
	case action == "fail":
		t.Failed++
	default:
		t.Skipped++
	}
}
