package spec

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestArguments(t *testing.T) {
	entry, cmd := []string{"/entry", "-e"}, []string{"cmd"}
	for _, tt := range []struct {
		name                            string
		command, args, entrypoint, cmd_ []string
		want                            string
	}{
		{"the image's own", nil, nil, entry, cmd, "/entry -e cmd"},
		{"args replace cmd", nil, []string{"a"}, entry, cmd, "/entry -e a"},
		{"a command replaces both", []string{"c"}, nil, entry, cmd, "c"},
		{"command and args", []string{"c"}, []string{"a"}, entry, cmd, "c a"},
		{"args and no entrypoint", nil, []string{"a"}, nil, cmd, "a"},
		{"cmd alone", nil, nil, nil, cmd, "cmd"},
		{"entrypoint alone", nil, nil, entry, nil, "/entry -e"},
		{"an empty argument stays", []string{"c", ""}, []string{""}, nil, nil, "c  "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mustContainer(t, func(in *Input) {
				in.Container.Command, in.Container.Args = tt.command, tt.args
				in.Image = Image{Entrypoint: tt.entrypoint, Cmd: tt.cmd_}
			})
			if got := strings.Join(s.Process.Args, " "); got != tt.want {
				t.Errorf("args %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	kv := func(k, v string) *runtimeapi.KeyValue { return &runtimeapi.KeyValue{Key: k, Value: []byte(v)} }
	for _, tt := range []struct {
		name string
		do   change
		want []string
	}{
		{"defaults", func(*Input) {}, []string{"PATH=" + defaultPath, "HOSTNAME=web-0", "HOME=/root"}},
		{"terminal", func(in *Input) { in.Container.Tty = true }, []string{"PATH=" + defaultPath, "HOSTNAME=web-0", "TERM=xterm", "HOME=/root"}},
		{"the host's name", func(in *Input) { in.Pod.Hostname = "" }, []string{"PATH=" + defaultPath, "HOSTNAME=node-1", "HOME=/root"}},
		{"the image has its say, kubelet the last", func(in *Input) {
			in.Container.Tty = true
			in.Image.Env = []string{"PATH=/i", "HOME=/i", "TERM=i", "HOSTNAME=i", "A=1", "A=2", "B=x=y"}
			in.Container.Envs = []*runtimeapi.KeyValue{kv("HOME", "/k"), kv("C", ""), kv("A", "3"), kv("A", "4")}
		}, []string{"PATH=/i", "HOSTNAME=i", "TERM=i", "HOME=/k", "A=4", "B=x=y", "C="}},
		{"what is no variable in an image", func(in *Input) {
			in.Image.Env = []string{"", "=", "=x", "NONAME", "N\x00=x", "N=\x00", "OK=é\n"}
		}, []string{"PATH=" + defaultPath, "HOSTNAME=web-0", "HOME=/root", "OK=é\n"}},
		{"no home", func(in *Input) { in.Identity.Home = "" }, []string{"PATH=" + defaultPath, "HOSTNAME=web-0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := mustContainer(t, tt.do).Process.Env; !slices.Equal(got, tt.want) {
				t.Errorf("env %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWorkingDir(t *testing.T) {
	for _, tt := range []struct{ kubelet, image, want string }{
		{"", "", "/"},
		{"", "/app", "/app"},
		{"/k", "/app", "/k"},
		{"", "app", "/app"},
		{"", "../..", "/"},
		{"/a//b/", "", "/a/b"},
		{"/proc", "", "/proc"},
		{"/proc/self/fdinfo", "", "/proc/self/fdinfo"},
		{"/data/proc/self/fd/7", "", "/data/proc/self/fd/7"},
		{"/proc/self/fd", "", ""},
		{"/proc/thread-self/fd/7", "", ""},
		{"/proc/self/task/1/fd/7", "", ""},
		{"/proc/1/root/etc", "", ""},
		{"/proc/1/cwd", "", ""},
		{"", "proc/self/fd/7", ""},
		{"", "/app\x00", ""},
	} {
		got, err := workingDir(tt.kubelet, tt.image)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("workingDir(%q, %q) = %q, %v, want %q", tt.kubelet, tt.image, got, err, tt.want)
		}
	}
}

func TestExecProcess(t *testing.T) {
	base := mustContainer(t, asUser, security(restricted))
	p := ExecProcess(base, []string{"sh"}, true)
	switch {
	case !slices.Equal(p.Args, []string{"sh"}), !p.Terminal, !slices.Contains(p.Env, "TERM=xterm"):
		t.Errorf("process %+v", p)
	case p.User.UID != 1000 || p.Cwd != base.Process.Cwd || !p.NoNewPrivileges:
		t.Errorf("process %+v is not the container's", p)
	case !slices.Equal(p.Capabilities.Bounding, []string{"CAP_NET_BIND_SERVICE"}):
		t.Errorf("capabilities %v", p.Capabilities)
	}
	p.Env[0], p.Capabilities.Bounding[0], p.User.AdditionalGids[0], *p.OOMScoreAdj = "changed", "changed", 9, 9
	if base.Process.Env[0] == "changed" || base.Process.Capabilities.Bounding[0] == "changed" ||
		base.Process.User.AdditionalGids[0] == 9 || *base.Process.OOMScoreAdj == 9 || slices.Contains(base.Process.Env, "TERM=xterm") {
		t.Errorf("the exec's process shares with its container's: %+v", base.Process)
	}
	own := ExecProcess(&specs.Spec{Process: &specs.Process{Env: []string{"TERM=vt100"}, Terminal: true}}, nil, true)
	if !slices.Equal(own.Env, []string{"TERM=vt100"}) {
		t.Errorf("env %q", own.Env)
	}
	if ExecProcess(&specs.Spec{Process: own}, nil, false).Terminal {
		t.Error("a terminal nobody asked for")
	}
}
