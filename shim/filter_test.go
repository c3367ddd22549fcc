package shim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/shim/api"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// denying is a profile that denies one call.
func denying(call string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{call}, Action: specs.ActErrno},
	}}
}

// Filters are compiled ahead and kept: each container and each command must get
// its own profile's, with and without no_new_privs (which decides when it is
// installed), and nothing of how it was handed over.
func TestSeccompFilters(t *testing.T) {
	h := newHost(t)
	const try = `mkdir /tmp/d 2>/dev/null && echo mkdir; ln -s x /tmp/l 2>/dev/null && echo symlink; rm -rf /tmp/d /tmp/l`
	for _, tt := range []struct {
		name    string
		profile *specs.LinuxSeccomp
		want    string
	}{
		{"no mkdir", denying("mkdir"), "symlink"},
		{"no symlink", denying("symlink"), "mkdir"},
		{"no mkdir again", denying("mkdir"), "symlink"},
		{"none", nil, "mkdir symlink"},
	} {
		for _, nnp := range []bool{false, true} {
			b := h.box("sleep 1000")
			b.spec.Linux.Seccomp = tt.profile
			b.spec.Process.NoNewPrivileges = nnp
			b.start()
			got, err := b.exec(try)
			if words := strings.Join(strings.Fields(string(got.Stdout)), " "); err != nil || words != tt.want {
				t.Errorf("%s, no_new_privs %t: a command could do %q (%v), want %q", tt.name, nnp, words, err, tt.want)
			}
			b.checkConfined(tt.profile != nil)
		}
	}
}

// The default profile, compiled ahead, is as strict as ever: calls outside it
// fail with EPERM, and unknown ones with ENOSYS.
func TestSeccompDefault(t *testing.T) {
	h := newHost(t)
	for range 2 { // the second gets what the first had compiled
		b := h.box("sleep 1000")
		var err error
		if b.spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(b.spec); err != nil {
			t.Fatal(err)
		}
		b.start()
		got, err := b.exec("unshare -U true 2>&1; hostname x 2>&1; echo $?")
		if err != nil || !strings.Contains(string(got.Stdout), "Operation not permitted") {
			t.Errorf("unshare and sethostname: %q, %v", got.Stdout, err)
		}
		b.checkConfined(true)
	}
}

// A new shim takes what others have compiled: two filters that were swapped on the way come
// out swapped.
func TestSeccompShared(t *testing.T) {
	if fixture.runtime != "" {
		t.Skip("another runtime compiles filters itself")
	}
	h := newHost(t)
	h.options.PodsPerProcess = 1
	h.reopen()
	could := func(denied string) string {
		b := h.box("sleep 1000")
		b.spec.Linux.Seccomp = denying(denied)
		b.start()
		got, err := b.exec("mkdir /tmp/d 2>/dev/null && echo mkdir; ln -s x /tmp/l 2>/dev/null && echo symlink; rm -rf /tmp/d /tmp/l")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(got.Stdout))
	}
	if got := could("mkdir"); got != "symlink" {
		t.Fatalf("without mkdir a command could do %q", got)
	}
	if got := could("symlink"); got != "mkdir" {
		t.Fatalf("without symlink a command could do %q", got)
	}
	eventually(t, "two filters are known", func() bool { return h.SharedFilters() == 2 })
	h.SwapFilters()
	if got := could("mkdir"); got != "mkdir" {
		t.Errorf("with the other's filter a command could do %q, want mkdir", got)
	}
}

// What is on record has the whole profile, though commands are started with less of it, and
// changes of limits are written meanwhile.
func TestSeccompRecord(t *testing.T) {
	if fixture.runtime != "" {
		t.Skip("another runtime keeps its own record")
	}
	h := newHost(t)
	b := h.sleeper()
	b.start()
	whole := b.recordedCalls()
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for range 10 {
				if res, err := b.exec("exit 3"); err != nil || res.Code != 3 {
					t.Errorf("code %d, %v", res.Code, err)
				}
			}
		})
	}
	for i := range int64(20) {
		limit := specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(100 + i)}}
		if err := h.Update(t.Context(), shim.UpdateRequest{ID: b.id, Resources: &limit}); err != nil {
			t.Error(err)
		}
		if n := b.recordedCalls(); n != whole || n < 100 {
			t.Errorf("%d calls on record, %d before", n, whole)
		}
	}
	work.Wait()
	b.checkConfined(true)
	h.killShim()
	b.checkConfined(true)
}

// recordedCalls is how many system calls the profile on record names.
func (b *box) recordedCalls() int {
	b.h.t.Helper()
	var state struct {
		Config struct {
			Seccomp struct{ Syscalls []struct{} } `json:"seccomp"`
		} `json:"config"`
	}
	data, err := os.ReadFile(filepath.Join(api.RuncDir(b.h.options.State), b.id, "state.json"))
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil {
		b.h.t.Fatal(err)
	}
	return len(state.Config.Seccomp.Syscalls)
}

// checkConfined looks at the first process and at a command: in seccomp's filter
// mode or not, and with no descriptor but the three.
func (b *box) checkConfined(want bool) {
	b.h.t.Helper()
	for _, who := range []string{"1", "self"} {
		got, err := b.exec("grep Seccomp: /proc/" + who + "/status; ls /proc/" + who + "/fd")
		words := strings.Fields(string(got.Stdout))
		mode := map[bool]string{true: "2", false: "0"}[want]
		if err != nil || len(words) < 2 || words[1] != mode {
			b.h.t.Errorf("process %s: %q, %v; want seccomp mode %s", who, words, err, mode)
			continue
		}
		fds := strings.Join(words[2:], " ")
		if who == "self" {
			fds = strings.TrimSuffix(fds, " 3") // the folder that ls reads
		}
		if fds != "0 1 2" {
			b.h.t.Errorf("process %s has descriptors %q", who, fds)
		}
	}
}
