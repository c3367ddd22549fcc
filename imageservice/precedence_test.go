package imageservice

import (
	"testing"
	"time"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestPullGivesWay: a pull waits for what is inside the junction, for as long as it is held
// up at once, and comes to its end although that stays.
func TestPullGivesWay(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", []registrytest.Layer{registrytest.GzipLayer(registrytest.Tar("a", "b"))}, nil)
	start := time.Now()
	defer b.Junction().Enter()()
	b.pull(t, "app:v1")
	if took := time.Since(start); took < time.Second {
		t.Errorf("it took %v", took)
	}
}
