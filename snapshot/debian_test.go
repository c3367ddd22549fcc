package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// packages are Debian's with something odd in them: sticky and group directories, set-user-ID
// and set-group-ID programs, hard links, names beyond ASCII and with signs in them, links
// that point nowhere, owners that are not root, nothing at all.
// BERTH_DEBIAN names others, or is "all": those that are installed here.
var packages = []string{"base-files", "passwd", "mount", "cron", "perl-base", "gzip", "e2fsprogs", "ca-certificates", "ncurses-base", "libc6", "at", "usr-is-merged"}

// TestDebian: Debian's packages as layers are, mounted, what GNU tar makes of them, one by
// one and all in one image; and so is one of GNU tar's own archives, which has what no
// package has. Packages are downloaded to .cache, or taken from apt's.
func TestDebian(t *testing.T) {
	top := scratch(t)
	drivers := map[string]Driver{}
	for _, name := range []string{"erofs", "overlay"} {
		d, err := Open(t.Context(), name, filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		drivers[name] = d
	}
	t.Run("odd", func(t *testing.T) { likeTar(t, drivers, oddTar(t)) })
	names := packages
	switch set := os.Getenv("BERTH_DEBIAN"); set {
	case "":
	case "all":
		names = installed(t)
	default:
		names = strings.Fields(set)
	}
	files := fetchPackages(t, names)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { likeTar(t, drivers, dataTar(t, file)) })
	}
	if len(files) > 100 {
		files = files[:100] // that many layers are an image
	}
	t.Run("image", func(t *testing.T) {
		var archives [][]byte
		for _, file := range files {
			archives = append(archives, dataTar(t, file))
		}
		likeTar(t, drivers, archives...)
	})
}

// likeTar compares archives, as the layers of an image, with GNU tar's unpacking them one
// onto the other.
func likeTar(t *testing.T, drivers map[string]Driver, archives ...[]byte) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, data := range archives {
		cmd := exec.CommandContext(t.Context(), "tar", "-x", "-p", "--same-owner", "--numeric-owner", "--delay-directory-restore", "--xattrs", "--xattrs-include=*", "-C", dir)
		cmd.Stdin = bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
	}
	want := census(t, dir)
	for name, d := range drivers {
		var chain []digest.Digest
		for _, data := range archives {
			id := digest.FromBytes(data)
			if err := d.AddLayer(t.Context(), id, bytes.NewReader(data), nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			chain = append(chain, id)
		}
		t.Run(name, func(t *testing.T) { // unmounted at its end
			differ(t, census(t, mounted(t, d, "c1", chain...)), want)
			for i, id := range chain {
				var got bytes.Buffer
				if err := d.Archive(t.Context(), id, &got); name == driverErofs && (err != nil || !bytes.Equal(got.Bytes(), archives[i])) {
					t.Errorf("its archive is %d bytes, not %d, or others; %v", got.Len(), len(archives[i]), err)
				}
			}
		})
		if err := d.UnsealImage(t.Context(), chain); err != nil {
			t.Error(err)
		}
		for _, id := range chain {
			if err := d.RemoveLayer(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
	}
}

// differ reports where two censuses differ.
func differ(t *testing.T, got, want map[string]string) {
	t.Helper()
	all := maps.Clone(got)
	maps.Copy(all, want)
	n := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if got[name] == want[name] {
			continue
		}
		if n++; n <= 10 {
			t.Errorf("%s:\n  mounted  %s\n  by tar   %s", name, got[name], want[name])
		}
	}
	if n > 10 {
		t.Errorf("%d differ", n)
	}
}

// census says of each file below root all that a program could find out about it.
func census(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[[2]uint64]string{} // names of files with several
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d %s", st.Mode, st.Uid, st.Gid, time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano))
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			key := [2]uint64{st.Dev, st.Ino}
			if first[key] == "" {
				first[key] = rel
			}
			line += fmt.Sprintf(" %d bytes, %d:%d, %d names, of %s", st.Size, unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Nlink, first[key])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFREG:
			sum, err := sumOf(path)
			if err != nil {
				return err
			}
			line += " " + sum
		}
		attrs, err := attributes(path)
		out[rel] = line + attrs
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}

func attributes(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	keys := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(keys)
	out := ""
	for _, key := range keys {
		n, err := unix.Lgetxattr(path, key, buf)
		if err != nil {
			return "", err
		}
		out += fmt.Sprintf(" %s=%x", key, buf[:n])
	}
	return out, nil
}

// oddTar is an archive by GNU tar of files with times of nanoseconds, attributes, several
// names, devices, odd names and holes.
func oddTar(t *testing.T) []byte {
	dir := t.TempDir()
	script := `set -e
mkdir -m 1777 tmp; mkdir -m 2750 group; mkdir -p deep/er/est
echo one > group/one; ln group/one group/two; ln group/one deep/three
ln -s nowhere/at/all dangling; ln -s "$(printf 'x%.0s' $(seq 300))" long
mknod null c 1 3; mknod disk b 259 1048575; mknod big c 511 65536; mkfifo pipe; chmod 622 null pipe
install -m 4755 /bin/true setuid; install -m 6711 /bin/true both; chown 12345:54321 both; chown 4294967294:4000000000 deep
: > "$(printf 'line\nfeed')"; : > "$(printf '\303\251\377')"; : > " "; : > "-n"; : > 'back\slash'
truncate -s 5M hole; printf end >> hole; truncate -s 3M zeros; head -c 70000 /dev/zero > block
touch -d '2001-02-03 04:05:06.123456789 UTC' group/one; touch -h -d '1999-12-31 23:59:59.999999999 UTC' dangling
touch -d '1969-12-31 23:59:58.5 UTC' zeros; touch -d '2106-02-07 06:28:17 UTC' block; touch -d '2400-01-01 UTC' disk
chmod 0 block; mkdir -m 0 closed
touch -d '2010-01-01 00:00:00.000000001 UTC' group deep/er . tmp`
	sh := exec.CommandContext(t.Context(), "sh", "-c", script)
	sh.Dir = dir
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_raw=ep, capability.h
	for _, a := range []struct{ path, key, value string }{
		{"group/one", "user.some", "value"}, {"group/one", "user.empty", ""}, {"group", "user.of.a.folder", "\x00\xff\n"},
		{"hole", "user.long", strings.Repeat("v", 2000)}, {"setuid", "security.capability", string(capability)},
	} {
		if err := unix.Lsetxattr(filepath.Join(dir, a.path), a.key, []byte(a.value), 0); err != nil {
			t.Fatal(err)
		}
	}
	tar := exec.CommandContext(t.Context(), "tar", "-c", "--format=pax", "--sparse", "--xattrs", "--xattrs-include=*", "-C", dir, ".")
	out, err := tar.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dataTar is what a package unpacks.
func dataTar(t *testing.T, file string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--fsys-tarfile", file).Output()
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return out
}

func installed(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-query", "-W", "-f", "${Package}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// fetchPackages finds the packages' files, and downloads what is missing. It skips the test
// where there is no Debian and no network.
func fetchPackages(t *testing.T, names []string) (files []string) {
	t.Helper()
	for _, tool := range []string{"dpkg-deb", "apt-get"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("not on Debian: %v", err)
		}
	}
	cache, err := filepath.Abs("../.cache/debian")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	var missing []string
	find := func(name string) string {
		for _, at := range []string{cache, "/var/cache/apt/archives"} {
			if found, _ := filepath.Glob(filepath.Join(at, name+"_*.deb")); len(found) > 0 {
				return found[len(found)-1]
			}
		}
		return ""
	}
	for _, name := range names {
		if find(name) == "" {
			missing = append(missing, name)
		}
	}
	err = download(t.Context(), cache, missing)
	for _, name := range names {
		if file := find(name); file != "" {
			files = append(files, file)
		}
	}
	if len(files) < len(names) && os.Getenv("BERTH_DEBIAN") == "" || len(files) == 0 {
		t.Skipf("packages cannot be downloaded: %v", err)
	}
	t.Logf("%d packages of %d", len(files), len(names))
	return files
}

// download has apt download packages to cache, by lists of its own if the machine's do not
// do: all that there are.
func download(ctx context.Context, cache string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root"}, args...)...)
		cmd.Dir = cache
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[len(args)-1], err, bytes.TrimSpace(out))
		}
		return nil
	}
	if apt(append([]string{"download"}, names...)...) == nil {
		return nil
	}
	own := []string{"-o", "Dir::State::Lists=" + filepath.Join(cache, "lists"), "-o", "Dir::Cache=" + filepath.Join(cache, "apt")}
	for _, dir := range []string{"lists/partial", "apt/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(cache, dir), 0o755); err != nil {
			return err
		}
	}
	if err := apt(append(own, "update")...); err != nil {
		return err
	}
	var errs []error
	for _, name := range names { // one that is from nowhere would stop the others
		errs = append(errs, apt(append(own, "download", name)...))
	}
	return errors.Join(errs...)
}
