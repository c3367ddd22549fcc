package main

import (
	"os"
	"slices"
	"testing"
)

// TestEveryPackageHasAPhase: no test is left out because nobody named its folder.
func TestEveryPackageHasAPhase(t *testing.T) {
	if err := os.Chdir("../.."); err != nil {
		t.Fatal(err)
	}
	pkgs, err := packages(t.Context())
	if err != nil || len(pkgs) == 0 {
		t.Fatal(pkgs, err)
	}
	for _, pkg := range pkgs {
		if !slices.ContainsFunc(phases(), func(p phase) bool { return p.only(pkg) }) {
			t.Errorf("%s is in no phase", pkg)
		}
	}
}
