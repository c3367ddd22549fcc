package shim_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	runtimeEnv = "BERTH_TEST_RUNTIME" // the program that is to run the containers
	binaryEnv  = "BERTH_TEST_SHIM"    // a berth-shim that is built already
)

// runtimes are the programs of other OCI runtimes that this machine has: those of the
// distribution, and runc as test/bench/tools/build.sh builds it.
func runtimes() (paths []string) {
	built, err := filepath.Abs("../.cache/bin/runc")
	if err != nil {
		return nil
	}
	for _, path := range []string{built, "/usr/bin/crun"} {
		if _, err := os.Stat(path); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// A container is the same whatever runs it: all tests of this package, once more for
// each other runtime.
func TestOtherRuntimes(t *testing.T) {
	if fixture.runtime != "" {
		t.Skip("this is one of its runs")
	}
	if os.Getenv("BERTH_PREBUILT") != "" {
		t.Skip("the virtual machine has a suite of its own for it")
	}
	found := runtimes()
	if len(found) == 0 {
		t.Skip("there is neither crun nor runc here: test/bench/tools/build.sh builds runc")
	}
	for _, path := range found {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=.")
			cmd.Env = append(os.Environ(), runtimeEnv+"="+path, binaryEnv+"="+fixture.binary)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
			t.Logf("%d tests and subtests passed, %d skipped", strings.Count(out.String(), "--- PASS"), strings.Count(out.String(), "--- SKIP"))
		})
	}
}
