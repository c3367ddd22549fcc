package upgrade

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A release is a folder with berthd and berth-shim.
type release struct{ dir string }

func (r release) shim() string { return filepath.Join(r.dir, "berth-shim") }

// TestBuild builds the releases of before, which later runs then find: make tools does, for they
// may need modules that this tree does not.
func TestBuild(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, commit := range []string{previousCommit(t, repo), escrowed} {
		if _, err := os.Stat(released(t, repo, commit).shim()); err != nil {
			t.Error(err)
		}
	}
}

// git runs git in the repository.
func git(t *testing.T, repo string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = repo
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// previousCommit is that of the previous release.
func previousCommit(t *testing.T, repo string) string {
	t.Helper()
	if shallow, err := git(t, repo, "rev-parse", "--is-shallow-repository"); err != nil || shallow != "false" {
		t.Fatalf("the previous release is built from git, which has no history here (%s, %v): run git fetch --unshallow --tags", shallow, err)
	}
	name, err := git(t, repo, "describe", "--tags", "--abbrev=0", "HEAD^")
	if err != nil {
		name = commitOf(t, "previous")
	}
	commit, err := git(t, repo, "rev-parse", "--verify", name+"^{commit}")
	if err != nil {
		t.Fatalf("%s, which stands for the previous release, is not in this clone: run git fetch --tags, or name another commit in test/upgrade/previous\n%s", name, commit)
	}
	return commit
}

// commitOf is the line of a file that is no comment.
func commitOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return line
		}
	}
	t.Fatalf("%s names no commit", path)
	return ""
}

// released builds the programs of a commit, unless that was done before.
func released(t *testing.T, repo, commit string) release {
	t.Helper()
	r := release{filepath.Join(repo, ".cache", "upgrade", commit)}
	if _, err := os.Stat(r.shim()); err == nil {
		return r
	}
	source := t.TempDir()
	archive := filepath.Join(source, "source.tar")
	if out, err := git(t, repo, "archive", "--output", archive, commit); err != nil {
		t.Fatalf("git archive: %v\n%s", err, out)
	}
	run(t, source, "", "tar", "-xf", archive)
	build(t, source, r, commit[:12])
	return r
}

// built are the releases of this tree, each of which a run of the tests builds once.
var built = map[string]bool{}

// current builds the programs of this tree, as a release of that name.
func current(t *testing.T, repo, name string) release {
	t.Helper()
	r := release{filepath.Join(repo, ".cache", "upgrade", name)}
	if built[name] {
		return r
	}
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	build(t, repo, r, name)
	built[name] = true
	return r
}

// build builds source's programs as the Makefile does, the shim last.
func build(t *testing.T, source string, r release, version string) {
	t.Helper()
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	flags := "-s -w -X main.version=" + version
	run(t, source, "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", r.dir+"/", "./cmd/berthd")
	run(t, source, "CGO_ENABLED=1", "go", "build", "-trimpath", "-buildvcs=false", "-tags", "seccomp netgo osusergo",
		"-ldflags", flags+` -linkmode external -extldflags "-static"`, "-o", r.dir+"/", "./cmd/berth-shim")
}

// install puts a release's programs into the folder where the node has them, each at once.
func (s *suite) install(t *testing.T, r release) {
	t.Helper()
	for _, name := range []string{"berthd", "berth-shim"} {
		to := filepath.Join(s.bin, name)
		run(t, "/", "", "cp", filepath.Join(r.dir, name), to+".new")
		if err := os.Rename(to+".new", to); err != nil {
			t.Fatal(err)
		}
	}
}

// programs are the files that the node's shims execute, by process ID.
func (s *suite) programs(t *testing.T) map[int]os.FileInfo {
	t.Helper()
	found := map[int]os.FileInfo{}
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range cmdlines {
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), "\x00serve\x00") || !strings.Contains(string(data), s.Node.State) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			found[pid] = info
		}
	}
	return found
}

// installed is the shim's program that is where the node has it.
func (s *suite) installed(t *testing.T) os.FileInfo {
	t.Helper()
	info, err := os.Stat(filepath.Join(s.bin, "berth-shim"))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func run(t *testing.T, dir, env string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}
