package bench_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berthd/berth/test/bench"
)

func TestPublish(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	const doc = "# A\n\n<!-- one -->\nold\n<!-- end -->\n\n<!-- two -->\nstays\n<!-- end -->\n"
	if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is the same
		if err := bench.Publish(path, "one", "new\n"); err != nil {
			t.Fatal(err)
		}
		const want = "# A\n\n<!-- one -->\n\nnew\n\n<!-- end -->\n\n<!-- two -->\nstays\n<!-- end -->\n"
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
	}
	if err := bench.Publish(path, "three", "new"); err == nil {
		t.Error("no error without a place for it")
	}
}
