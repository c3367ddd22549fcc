package arch

import (
	"fmt"
	"slices"
	"strings"
)

// mayImport lists, for each top-level folder, the others that it may use. test
// may use all, and nobody uses test or cmd.
var mayImport = map[string][]string{
	"config":       {},
	"crashpoint":   {},
	"held":         {},
	"rest":         {},
	"netns":        {},
	"shim":         {},
	"snapshot":     {},
	"imageservice": {"snapshot"},
	"sandbox":      {"imageservice", "netns", "shim", "snapshot"},
	"cri":          {"imageservice", "netns", "sandbox", "shim", "snapshot"},
	"operator":     {"imageservice"}, // beside cri: calls that the CRI has not, about images alone
	"cmd":          {"config", "cri", "imageservice", "netns", "operator", "sandbox", "shim", "snapshot"},
	"test":         {"cmd", "config", "cri", "imageservice", "netns", "operator", "sandbox", "shim", "snapshot"},
}

// everywhere may be imported by all: crashpoint, of which nothing is left in what is shipped,
// held, which only takes notes, and rest, which gives back a process's memory.
var everywhere = []string{"crashpoint", "held", "rest"}

// leaves are packages that stand on their own: they import nothing of ours
// outside the list, not even what their folder may.
var leaves = map[string][]string{
	"snapshot/durable":      {},
	"imageservice/registry": {},
	"shim/api":              {},
	"sandbox/spec":          {},
	"sandbox/cgroupstat":    {},
	"sandbox/selinux":       {},
	"cri/stream":            {},
	"shim/keeper":           {"shim/api", "shim/keeper"},
	"operator/api":          {},
	"cmd/berth":             {"config", "operator/api"}, // the API is how it asks berthd, and brings nothing of berthd with it
	"cmd/berth-shim":        {"shim/api", "shim/keeper"},
}

// sharedWith lists the folders outside their own that may use a sub-package. One
// that is not here is its folder's own.
var sharedWith = map[string][]string{
	"snapshot/durable":   {"imageservice", "sandbox"},
	"sandbox/spec":       {"cri"},
	"sandbox/cgroupstat": {"cri"},
	"sandbox/selinux":    {"cmd", "cri"},
	"shim/api":           {"cmd"},
	"shim/keeper":        {"cmd"},
	"operator/api":       {"cmd"},
	"operator/metrics":   {"cmd"},
}

// importDirection is design.md, section 2.
func importDirection(s source) (bad []string) {
	for _, f := range s.files {
		if f.test {
			continue
		}
		for _, imp := range f.imports() {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if why := mayUse(f, to); why != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", f.path, to, why))
			}
		}
	}
	return bad
}

func mayUse(f file, to string) string {
	if slices.Contains(everywhere, to) {
		return ""
	}
	toTop, _, sub := strings.Cut(to, "/")
	if leaf, only := entry(leaves, f.dir); leaf != "" && !within(to, append([]string{leaf}, only...)) {
		return leaf + " uses no other package of ours" + orOnly(only)
	}
	if toTop == f.top() {
		if f.dir != toTop && to == toTop && toTop != "cmd" {
			return "a sub-package does not use its parent"
		}
		return ""
	}
	if !slices.Contains(mayImport[f.top()], toTop) {
		return f.top() + " may not use " + toTop
	}
	if _, shared := entry(sharedWith, to); sub && !slices.Contains(shared, f.top()) {
		return "it is " + toTop + "'s own"
	}
	return ""
}

// entry finds the key of m that is dir or a folder above it.
func entry(m map[string][]string, dir string) (string, []string) {
	for key, value := range m {
		if within(dir, []string{key}) {
			return key, value
		}
	}
	return "", nil
}

func within(dir string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") })
}

func orOnly(only []string) string {
	if len(only) == 0 {
		return ""
	}
	return " than " + strings.Join(only, ", ")
}

// topFolders is the list of design.md, section 2, and the names it does not want.
func topFolders(s source) (bad []string) {
	for _, top := range s.tops {
		if _, ok := mayImport[top]; !ok && top != "docs" {
			bad = append(bad, top+": not a folder of the design")
		}
	}
	noNoun := []string{"utils", "util", "helpers", "helper", "common", "types", "pkg", "internal", "manager", "impl"}
	for _, dir := range s.dirs {
		if slices.Contains(noNoun, dir[strings.LastIndexByte(dir, '/')+1:]) {
			bad = append(bad, dir+": says nothing about what is in it")
		}
	}
	return bad
}
