package meter_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthd/berth/test/bench/meter"
)

// TestOf has a child that works, and a grandchild, alive, that writes.
func TestOf(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "berth-meter-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := meter.OnDisk(dir); err != nil {
		t.Skip(err)
	}
	before, err := meter.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done
		(dd if=/dev/zero of="$1" bs=65536 count=64 2>/dev/null; echo written; read x) | { read line; echo $line; read x; }`, "sh", filepath.Join(dir, "f"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		after, err := meter.Of(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		used := after.Sub(before)
		if used.Written < 64*65536 || used.Written > 65*65536 || used.CPU < 10*time.Millisecond {
			t.Errorf("%s: %+v, want about %d bytes written and some CPU", when, used, 64*65536)
		}
	}
	check("while they live")
	in.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func TestPeak(t *testing.T) {
	pid := os.Getpid()
	big := make([]byte, 64<<20)
	for i := 0; i < len(big); i += 4096 {
		big[i] = 1
	}
	if peak, err := meter.Peak(pid); err != nil || peak < 64<<20 {
		t.Errorf("peak %d, %v", peak, err)
	}
	if err := meter.ResetPeak(pid); err != nil {
		t.Error(err)
	}
}

func TestSpace(t *testing.T) {
	dir := t.TempDir()
	before, err := meter.Space(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	sparse.Close()
	after, err := meter.Space(dir)
	if err != nil || after-before < 1<<20 || after-before > 1<<20+64<<10 {
		t.Errorf("%d bytes, %v, want 1 MiB", after-before, err)
	}
}

func TestMachine(t *testing.T) {
	busy, err := meter.Machine()
	if err != nil || busy <= 0 {
		t.Errorf("%v, %v", busy, err)
	}
}
