package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestEveryPackageHasAPhase: no test is left out because nobody named its folder.
// Those that want systemd run in the virtual machine alone.
func TestEveryPackageHasAPhase(t *testing.T) {
	if err := os.Chdir("../.."); err != nil {
		t.Fatal(err)
	}
	pkgs, err := packages(t.Context())
	if err != nil || len(pkgs) == 0 {
		t.Fatal(pkgs, err)
	}
	suites, err := exec.CommandContext(t.Context(), "go", "run", "./test/vm", "suites").Output()
	if err != nil {
		t.Fatal(err)
	}
	inMachine := strings.Fields(string(suites))
	for _, pkg := range pkgs {
		if slices.Contains(inMachine, pkg) {
			continue
		}
		if !slices.ContainsFunc(phases(), func(p phase) bool { return p.only(pkg) }) {
			t.Errorf("%s is in no phase", pkg)
		}
	}
}
