package quota

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReserved(t *testing.T) {
	dir := t.TempDir()
	projid, projects := filepath.Join(dir, "projid"), filepath.Join(dir, "projects")
	if ids, err := reservedIn(projid, projects); err != nil || len(ids) > 0 {
		t.Errorf("without files: %v, %v", ids, err)
	}
	for path, text := range map[string]string{
		projid:   "#This file is kept by kubelet\nvolume1048577:1048577\nweb:12\nodd\n:\nbig:4294967296\nlast:1600000000",
		projects: "1048578:/var/lib/kubelet/pods/x:y\n# 13:/no\n14:/srv\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := reservedIn(projid, projects)
	if want := []uint32{12, 14, 1048577, 1048578, 1600000000}; err != nil || !slices.Equal(slices.Sorted(maps.Keys(ids)), want) {
		t.Errorf("%v, %v", ids, err)
	}
	if err := os.WriteFile(projid, []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := reservedIn(projid, projects); err == nil {
		t.Error("a line without end was read")
	}
}
