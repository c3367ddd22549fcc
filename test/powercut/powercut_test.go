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
			var seen tally
			for seen.cuts < n && !t.Failed() {
				cuts := s.round(t, fmt.Sprint("disk", seen.cuts), min(perRound, n-seen.cuts))
				for i, c := range cuts {
					if i%5 == 0 {
						c.again = c.disk + "-again"
					}
					seen.add(t, s, c)
					seen.cuts++
					if c.again != "" {
						c.disk, c.again = c.again, ""
						seen.add(t, s, c)
						seen.twice++
					}
				}
			}
			t.Logf("%d cuts, %d of them with another one while the next daemon started; %d images had been promised", seen.cuts, seen.twice, seen.promised)
			if seen.promised == 0 {
				t.Error("no cut came when an image was there")
			}
		})
	}
}

// A tally is what was seen.
type tally struct{ cuts, twice, promised int }

// add verifies a cut, and fails when something is wrong.
func (n *tally) add(t *testing.T, s *suite, c cut) {
	t.Helper()
	n.promised += len(c.promised)
	log := s.logSize(t)
	found := s.verify(t, c)
	for _, f := range found {
		t.Errorf("%s: %s: %s", filepath.Base(c.disk), f.kind, f.text)
	}
	if len(found) > 0 {
		t.Logf("berthd's log:\n%s", s.logFrom(t, log))
	}
}

// TestWithoutSync expects that the checks find damage once nothing waits for the disk, or
// only the files of layers and images do not. ext4 keeps its mercy here, so that the index of
// images, which is renamed over the old one, is read.
//
// Unless BERTH_CUTS is set, each is done with one driver, up to the first damage.
func TestWithoutSync(t *testing.T) {
	if os.Getenv("BERTH_PREBUILT") != "" {
		t.Skip("no Go here to build such a berthd")
	}
	for i, tag := range []string{"nosync", "nosynctree"} {
		which := drivers
		if os.Getenv("BERTH_CUTS") == "" {
			which = drivers[i:][:1]
		}
		for _, driver := range which {
			t.Run(tag+"/"+driver, func(t *testing.T) { withoutSync(t, tag, driver) })
		}
	}
}

func withoutSync(t *testing.T, tag, driver string) {
	s := open(t, driver, "commit=1")
	s.berthd = filepath.Join(t.TempDir(), "berthd")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", tag, "-buildvcs=false", "-o", s.berthd, "./cmd/berthd")
	build.Dir = s.world.Repo
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kinds, damaged, looked := map[string]int{}, 0, 0
	for _, c := range s.round(t, "disk", cutsEach) {
		looked++
		found := s.verify(t, c)
		for _, f := range found {
			if kinds[f.kind]++; kinds[f.kind] == 1 {
				t.Logf("for example: %s: %.400s", f.kind, f.text)
			}
		}
		if len(found) > 0 {
			damaged++
		}
		if damaged > 0 && os.Getenv("BERTH_CUTS") == "" {
			break
		}
	}
	t.Logf("%d of %d cuts have done damage", damaged, looked)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%s: %d", kind, kinds[kind])
	}
	if damaged == 0 {
		t.Errorf("%d cuts, and none has done damage", looked)
	}
}
