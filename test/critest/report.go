package critest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A spec is one test of critest and how it ended.
type spec struct {
	name    string
	state   string // passed, skipped, or a way to fail
	message string
	took    time.Duration
}

func (s spec) passed() bool  { return s.state == "passed" }
func (s spec) skipped() bool { return s.state == "skipped" || s.state == "pending" }

// readReport reads Ginkgo's JSON report. A suite that ended early has only some
// specs; fail tells that.
func readReport(path string) (specs []spec, fail string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	var suites []struct {
		SpecialSuiteFailureReasons []string
		SpecReports                []struct {
			ContainerHierarchyTexts []string
			LeafNodeText            string
			LeafNodeType            string
			State                   string
			RunTime                 time.Duration
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	for _, s := range suites {
		fail = strings.Join(s.SpecialSuiteFailureReasons, "; ")
		for _, r := range s.SpecReports {
			if r.LeafNodeType != "It" {
				if r.State == "failed" {
					fail += "; " + r.LeafNodeType + ": " + r.Failure.Message
				}
				continue
			}
			name := strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")
			specs = append(specs, spec{name, r.State, r.Failure.Message, r.RunTime})
		}
	}
	slices.SortFunc(specs, func(a, b spec) int { return strings.Compare(a.name, b.name) })
	return specs, fail, nil
}

// readExpected reads the names of the specs that may fail. Empty lines and those
// that start with # say why.
func readExpected(path string) (map[string]bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out[line] = true
		}
	}
	return out, nil
}

// A verdict is the count of a report.
type verdict struct {
	passed, failed, skipped int
	unknown                 []string // expected failures that no spec is named
}

// judge counts specs. In a partial run an expected failure that did not come up
// is no mistake.
func judge(specs []spec, expected map[string]bool, partial bool) verdict {
	var v verdict
	seen := map[string]bool{}
	for _, s := range specs {
		seen[s.name] = true
		switch {
		case s.passed():
			v.passed++
		case s.skipped():
			v.skipped++
		default:
			v.failed++
		}
	}
	for name := range expected {
		if !seen[name] && !partial {
			v.unknown = append(v.unknown, name)
		}
	}
	slices.Sort(v.unknown)
	return v
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(strings.TrimSpace(s), "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n\t")
}
