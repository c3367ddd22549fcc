// Package bundle collects what a report of a fault needs into one tar.gz: versions, settings,
// dumps, logs, records, mounts and figures of the node. What is missing or cannot be read is
// said in errors.txt and keeps nothing else from being collected.
//
// No secret is to be in it, so that it can be sent to others. Settings have none; berthd and
// its shims log none. Of records, which have what kubelet wrote, only texts that are known to
// say no secret are taken: no value of an environment variable, no argument of a command, no
// annotation, no label, no network configuration. Containers' logs and files are not read.
//
// It changes nothing on the node and may be called again.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// maxPart bounds one file in the bundle, in bytes; of logs the end is taken.
	maxPart = 16 << 20
	// maxTotal bounds all of them.
	maxTotal = 128 << 20
	// commandLimit is how long a program that is asked may take.
	commandLimit = 20 * time.Second
	// maxEntries bounds a list of files.
	maxEntries = 20000
)

// Options say what to collect.
type Options struct {
	Root, State string // berthd's folders
	Settings    string // as a settings file
	Versions    string // of the programs
	Status      []byte // what berthd says of itself
	Failures    []error
}

// A collector writes a bundle.
type collector struct {
	o        Options
	out      *tar.Writer
	now      time.Time
	total    int
	failures []string
}

// Write writes the bundle to out. The error is that of writing; what could not be collected is
// told in the bundle.
func Write(ctx context.Context, out io.Writer, o Options) error {
	zipped := gzip.NewWriter(out)
	c := &collector{o: o, out: tar.NewWriter(zipped), now: time.Now()}
	for _, err := range o.Failures {
		c.failed("berthd", err)
	}
	parts := []func(context.Context) error{c.versions, c.dumps, c.logs, c.records, c.mounts, c.files, c.node, c.processes}
	for _, part := range parts {
		if err := errors.Join(part(ctx), ctx.Err()); err != nil {
			return err
		}
	}
	if err := c.add("errors.txt", []byte(strings.Join(append(c.failures, ""), "\n"))); err != nil {
		return err
	}
	return errors.Join(c.out.Close(), zipped.Close())
}

func (c *collector) failed(what string, err error) {
	c.failures = append(c.failures, fmt.Sprintf("%s: %v", what, err))
}

// add puts a file into the bundle.
func (c *collector) add(name string, data []byte) error {
	if room := maxTotal - c.total; len(data) > room {
		c.failed(name, fmt.Errorf("cut after %d of %d bytes: the bundle is full", room, len(data)))
		data = data[:room]
	}
	c.total += len(data)
	err := c.out.WriteHeader(&tar.Header{Name: "berth/" + name, Size: int64(len(data)), Mode: 0o600, ModTime: c.now, Typeflag: tar.TypeReg})
	if err == nil {
		_, err = c.out.Write(data)
	}
	return err
}

// copyOf adds the end of a file of the node's.
func (c *collector) copyOf(name, path string) error {
	data, err := tail(path)
	if err != nil {
		c.failed(name, err)
		return nil
	}
	return c.add(name, data)
}

// tail reads the last maxPart bytes of a file that may be one of /proc.
func tail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file", path)
	} else if fi.Size() > maxPart {
		if _, err := f.Seek(-maxPart, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, maxPart))
}

func (c *collector) versions(context.Context) error {
	text := c.o.Versions
	for _, path := range []string{"/proc/version", "/etc/os-release"} {
		data, err := tail(path)
		if err != nil {
			c.failed("versions.txt", err)
			continue
		}
		text += "\n" + path + ":\n" + string(data)
	}
	return errors.Join(c.add("versions.txt", []byte(text)), c.add("config.toml", []byte(c.o.Settings)), c.add("status.json", c.o.Status))
}

func (c *collector) dumps(context.Context) error {
	paths, err := filepath.Glob(filepath.Join(c.o.Root, "dumps", "*.txt"))
	for _, p := range paths {
		err = errors.Join(err, c.copyOf("dumps/"+filepath.Base(p), p))
	}
	return err
}

// logs are berthd's, where journald has them, and the shims'.
func (c *collector) logs(ctx context.Context) error {
	text, err := run(ctx, "journalctl", "--unit=berthd", "--lines=20000", "--no-pager", "--output=short-iso-precise")
	if err != nil {
		c.failed("berthd.log", fmt.Errorf("%w; add what keeps berthd's stderr on this node", err))
	} else if err := c.add("berthd.log", text); err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(c.o.State, "shims", "*", "log"))
	for _, p := range paths {
		err = errors.Join(err, c.copyOf("shims/"+filepath.Base(filepath.Dir(p))+".log", p))
	}
	return err
}

// run is what a program prints, its end.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout = &limited{&out}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out.Bytes(), nil
}

// limited takes everything and keeps maxPart bytes.
type limited struct{ to *bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), maxPart-l.to.Len())])
	return len(p), nil
}

// records are those of pods and containers, without what may be a secret.
func (c *collector) records(context.Context) error {
	root := filepath.Join(c.o.Root, "pods")
	var add error
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			c.failed("records", err)
			return nil
		case add != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".json":
			return add
		}
		data, err := tail(path)
		if err == nil {
			data, err = redact(data)
		}
		if err != nil {
			c.failed("records", fmt.Errorf("%s: %w", path, err))
			return nil
		}
		add = c.add("records"+strings.TrimPrefix(path, root), data)
		return add
	})
	return errors.Join(err, add)
}

// mounts are those that are berth's, as this process sees them.
func (c *collector) mounts(context.Context) error {
	data, err := tail("/proc/self/mountinfo")
	if err != nil {
		c.failed("mounts.txt", err)
		return nil
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(l string) bool {
		f := strings.Fields(l)
		return len(f) < 5 || !below(f[4], c.o.Root) && !below(f[4], c.o.State)
	})
	return c.add("mounts.txt", []byte(strings.Join(lines, "")))
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// files lists what is in berthd's folders, layers' and containers' own files aside.
func (c *collector) files(context.Context) error {
	var out bytes.Buffer
	entries := 0
	for _, dir := range []string{c.o.Root, c.o.State} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				c.failed("files.txt", err)
				return nil
			}
			if entries++; entries > maxEntries {
				c.failed("files.txt", fmt.Errorf("cut after %d entries", maxEntries))
				return fs.SkipAll
			}
			info, err := d.Info()
			if err != nil {
				return nil // gone meanwhile
			}
			fmt.Fprintf(&out, "%s %10d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
			if d.IsDir() && (strings.Count(strings.TrimPrefix(path, dir), "/") >= 4 || d.Name() == "rootfs" || d.Name() == "fs") {
				return fs.SkipDir // what is in it is a container's, or an image's
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.add("files.txt", out.Bytes())
}
