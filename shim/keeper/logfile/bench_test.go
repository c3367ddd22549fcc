package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// talkerEnv has the test's program be a container's process that has much to say: see talk.
const talkerEnv = "BERTH_LOG_TALKER"

// talk writes lines to stdout as fast as it can, as many as options say: the bytes of all of
// them, of a line, and of a write.
func talk(options string) {
	var total, line, chunk int
	if _, err := fmt.Sscan(options, &total, &line, &chunk); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	p := bytes.Repeat(append(bytes.Repeat([]byte{'x'}, line-1), '\n'), max(1, chunk/line))
	for said := 0; said < total; said += len(p) {
		if _, err := syscall.Write(1, p); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// BenchmarkLog logs what another process says as fast as it can, with the spools on a tmpfs as
// a state directory is. CPU is the log's, not the other process's.
func BenchmarkLog(b *testing.B) {
	for _, c := range []struct{ size, line, chunk int }{
		{256 << 20, 100, 64 << 10},
		{128 << 20, 100, 4 << 10},
		{32 << 20, 100, 100}, // a write for each line
		{16 << 20, 8, 64 << 10},
		{8 << 20, 2, 4 << 10}, // yes
		{256 << 20, 8000, 64 << 10},
	} {
		b.Run(fmt.Sprintf("line=%d/write=%d", c.line, max(c.chunk, c.line)), func(b *testing.B) {
			b.SetBytes(int64(c.size))
			var used time.Duration
			for b.Loop() {
				used += logTalker(b, fmt.Sprint(c.size, " ", c.line, " ", c.chunk))
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N)/float64(c.size>>20), "CPU-ms/MiB")
		})
	}
}

// logTalker logs all that a talker says, and tells what CPU that took.
func logTalker(b *testing.B, options string) time.Duration {
	bundle, err := os.MkdirTemp("/dev/shm", "berth-log-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(bundle)
	path := filepath.Join(b.TempDir(), "log")
	l, err := Open(Options{Path: path, Bundle: bundle}, NewPools())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	before := cpu()
	l.Start(0, Source{File: r})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), talkerEnv+"="+options)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	err = cmd.Run()
	w.Close()
	l.Wait(time.Minute)
	used := cpu() - before
	if rerr := os.Remove(path); err != nil || rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		b.Fatal(err, rerr)
	}
	return used
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
