package metrics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berthd/berth/imageservice"
)

// documented is a line of the table: name, type, labels.
var documented = regexp.MustCompile("(?m)^\\| `(berth_[a-z_]+)` \\| ([a-z]+) \\| ([`a-z_, ]*)\\|")

// TestDocumentation: docs/operations.md lists what is served, its types and labels, and nothing else.
func TestDocumentation(t *testing.T) {
	data, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, line := range documented.FindAllStringSubmatch(string(data), -1) {
		want = append(want, strings.TrimSpace(strings.Join([]string{line[1], line[2], strings.TrimSpace(strings.ReplaceAll(line[3], "`", ""))}, " ")))
	}
	b := newBench(t)
	b.serve(t)
	defer b.everything(t)()
	var got []string
	for name, family := range b.scrape(t) {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		var labels []string
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(labels, l.GetName()) {
					labels = append(labels, l.GetName())
				}
			}
		}
		got = append(got, strings.TrimSpace(name+" "+strings.ToLower(family.GetType().String())+" "+strings.Join(labels, ", ")))
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(got) == 0 || !slices.Equal(got, want) {
		t.Errorf("served:\n%s\n\ndocumented:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range append(values(stageLabels), resultNames()...) {
		if !strings.Contains(string(data), "`"+name+"`") {
			t.Errorf("the value %s is not in the documentation", name)
		}
	}
}

func values(m map[imageservice.Stage]string) (all []string) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

func resultNames() (all []string) {
	for _, r := range results {
		all = append(all, r.name)
	}
	return all
}

// TestStagesHaveLabels: every stage that a pull can be at has a label of its own.
func TestStagesHaveLabels(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../imageservice/progress.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := []string{"StageReading", "StagePacking", "StageUploading", "StageDone"} // not of a pull under way
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Stage") || slices.Contains(other, spec.Names[0].Name) {
			return true
		}
		text := imageservice.Stage(strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
		found++
		if label(text) == "other" {
			t.Errorf("%s (%q) has no label", spec.Names[0].Name, text)
		}
		return true
	})
	if found != len(stageLabels) {
		t.Errorf("%d stages, %d labels", found, len(stageLabels))
	}
}
