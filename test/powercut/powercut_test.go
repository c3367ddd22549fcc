package powercut

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// drivers are the ways to keep layers.
var drivers = []string{"erofs", "overlay"}

// cutsEach is how many cuts there are with each driver, unless BERTH_CUTS says so.
const cutsEach = 5

// perRound is how many cuts one run of a daemon has at most: their disks are kept until
// it has ended.
const perRound = 20

// harsh are the options of the disk's mount; the package's comment says why.
const harsh = "commit=1,noauto_da_alloc"

func howMany(t *testing.T) int {
	t.Helper()
	text := os.Getenv("BERTH_CUTS")
	if text == "" {
		return cutsEach
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal("BERTH_CUTS: ", err)
	}
	return n
}

// TestPowerCut expects that nothing is ever wrong.
func TestPowerCut(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			n := howMany(t)
			s := open(t, driver, harsh)
			promised := 0
			for done := 0; done < n && !t.Failed(); {
				cuts := s.round(t, fmt.Sprint("disk", done), min(perRound, n-done))
				for i, c := range cuts {
					promised += len(c.promised)
					log := s.logSize(t)
					found := s.verify(t, c)
					for _, f := range found {
						t.Errorf("cut %d: %s: %s", done+i, f.kind, f.text)
					}
					if len(found) > 0 {
						t.Logf("cut %d: berthd's log:\n%s", done+i, s.logFrom(t, log))
					}
				}
				done += len(cuts)
			}
			t.Logf("%d cuts; %d images had been promised at them", n, promised)
			if promised == 0 {
				t.Error("no cut came when an image was there")
			}
		})
	}
}

// TestWithoutSync expects that the checks find damage once nothing waits for the disk.
// ext4 keeps its mercy here, so that the index of images, which is renamed over the old one, is read.
func TestWithoutSync(t *testing.T) {
	if os.Getenv("BERTH_PREBUILT") != "" {
		t.Skip("no Go here to build such a berthd")
	}
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			s := open(t, driver, "commit=1")
			s.berthd = filepath.Join(t.TempDir(), "berthd")
			build := exec.CommandContext(t.Context(), "go", "build", "-tags", "nosync", "-buildvcs=false", "-o", s.berthd, "./cmd/berthd")
			build.Dir = s.world.Repo
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			kinds, damaged := map[string]int{}, 0
			cuts := s.round(t, "disk", howMany(t))
			for _, c := range cuts {
				found := s.verify(t, c)
				for _, f := range found {
					kinds[f.kind]++
				}
				if len(found) > 0 {
					damaged++
					t.Logf("for example: %s: %s", found[0].kind, found[0].text)
				}
			}
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				t.Logf("%s: %d", kind, kinds[kind])
			}
			if damaged == 0 {
				t.Errorf("%d cuts, and none has done damage", len(cuts))
			}
			t.Logf("%d of %d cuts have done damage", damaged, len(cuts))
		})
	}
}
