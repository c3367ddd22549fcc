package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

const address = `[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.5/24","interface":1}]}'`

// passOn answers ADD with an address, and goes on otherwise.
const passOn = `if [ "$CNI_COMMAND" = ADD ]; then echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/24"}]}'; exit 0; fi
`

// withPlugin adds a plugin to the end of a list.
func withPlugin(t *testing.T, conf []byte, plugin string) []byte {
	t.Helper()
	var list map[string]any
	if err := json.Unmarshal(conf, &list); err != nil {
		t.Fatal(err)
	}
	list["plugins"] = append(list["plugins"].([]any), json.RawMessage(plugin))
	out, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fakes opens a network whose plugins are shell scripts that write down how they
// were called.
func fakes(t *testing.T, plugins map[string]string) (n *Network, log string) {
	t.Helper()
	bin := t.TempDir()
	log = filepath.Join(bin, "log")
	for name, body := range plugins {
		script(t, bin, name, `echo "$CNI_COMMAND `+name+` $CNI_CONTAINERID $CNI_NETNS" >>`+log+"\n"+body)
	}
	return openNetwork(t, Options{ConfDir: filepath.Join(bin, "net.d"), BinDirs: []string{bin}}), log
}

func calls(t *testing.T, log string) string {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	os.Remove(log)
	return strings.TrimSpace(string(data))
}

func TestDetachRunsEveryPlugin(t *testing.T) {
	n, log := fakes(t, map[string]string{
		"first": address, "second": passOn + `echo '{"code":7,"msg":"cannot"}'; exit 1`, "third": passOn,
	})
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first", "second", "third"))}
	rt := &libcni.RuntimeConf{ContainerID: "pod1", IfName: podInterface}
	list, err := parseList(a.Conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Attach(limited(t), a); err != nil {
		t.Fatal(err)
	}
	calls(t, log)
	for range 2 {
		err := n.Detach(limited(t), a)
		if !says(err, "pod pod1: network x: DEL: plugin second: cannot") {
			t.Errorf("Detach = %v", err)
		}
		if got, want := calls(t, log), "DEL third pod1 /proc/self/ns/net\nDEL second pod1 /proc/self/ns/net\nDEL first pod1 /proc/self/ns/net"; got != want {
			t.Errorf("ran\n%s\nwant\n%s", got, want)
		}
		if r, err := n.cni.GetNetworkListCachedResult(list, rt); r == nil || err != nil {
			t.Errorf("the cached result is gone after a DEL that failed: %v", err)
		}
	}
	os.Remove(filepath.Join(n.o.BinDirs[0], "third"))
	os.Remove(filepath.Join(n.o.BinDirs[0], "first"))
	if err := n.Detach(limited(t), a); !says(err, `"third": no such program in`, "second: cannot", `"first": no such program in`) {
		t.Errorf("without the programs: %v", err)
	}
	script(t, n.o.BinDirs[0], "second", "exit 0")
	script(t, n.o.BinDirs[0], "third", "exit 0")
	if err := n.Detach(limited(t), a); !says(err, `"first": no such program in`) || says(err, "third") {
		t.Errorf("without one: %v", err)
	}
	script(t, n.o.BinDirs[0], "first", "exit 0")
	if err := n.Detach(limited(t), a); err != nil {
		t.Errorf("with all: %v", err)
	}
	if r, _ := n.cni.GetNetworkListCachedResult(list, rt); r != nil {
		t.Error("the cached result stays after a DEL that succeeded")
	}
}

func TestDeadlineKillsThePluginAndItsChildren(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "alive") // has a writer as long as one of them lives
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	n, _ := fakes(t, map[string]string{"hang": "exec 3>" + fifo + "\nsleep 1000 & sleep 1000"})
	n.o.Deadline = 300 * time.Millisecond
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "hang"))}
	ended := make(chan error, 1)
	go func() {
		f, err := os.Open(fifo)
		if err == nil {
			_, err = io.ReadAll(f)
			f.Close()
		}
		ended <- err
	}()
	_, err := n.Attach(limited(t), a)
	if !errors.Is(err, context.DeadlineExceeded) || !says(err, "CNI plugin hang: no answer, killed: CNI ADD: not done in 300ms") {
		t.Errorf("Attach = %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testLimit):
		t.Error("the plugin's children live on")
	}
}

func TestPluginThatLeavesAChildBehind(t *testing.T) {
	n, _ := fakes(t, map[string]string{"first": "sleep 1000 &\nchild=$!\n" + `echo $child >"$0.pid"` + "\n" + address})
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first"))}
	r, err := n.Attach(limited(t), a)
	if err != nil || len(r.IPs) != 1 || r.IPs[0] != "10.1.0.5" {
		t.Errorf("Attach = %v, %v", r, err)
	}
	data, _ := os.ReadFile(filepath.Join(n.o.BinDirs[0], "first.pid"))
	var pid int
	fmt.Sscan(string(data), &pid)
	if pid > 1 {
		unix.Kill(pid, unix.SIGKILL)
	}
}

func TestAttachPassesArguments(t *testing.T) {
	n, _ := fakes(t, map[string]string{"first": `cat >"$0.stdin"; echo "$CNI_ARGS" >"$0.args"; echo "$CNI_IFNAME $CNI_PATH" >>"$0.args"` + "\n" + address})
	a := Attachment{
		PodID: "pod1", Name: "web-0", Namespace: "shop", UID: "u-1", NetnsPath: "/proc/self/ns/net",
		Conf:         []byte(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"first","capabilities":{"portMappings":true,"io.kubernetes.cri.pod-annotations":true,"dns":false}}]}`),
		PortMappings: []PortMapping{{HostPort: 80, ContainerPort: 8080}},
		DNS:          DNS{Servers: []string{"10.0.0.1"}},
		Annotations:  map[string]string{"k": "v"},
		CgroupPath:   "/kubepods/x",
	}
	if _, err := n.Attach(limited(t), a); err != nil {
		t.Fatal(err)
	}
	bin := n.o.BinDirs[0]
	args, _ := os.ReadFile(filepath.Join(bin, "first.args"))
	if want := "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=u-1\neth0 " + bin + "\n"; string(args) != want {
		t.Errorf("arguments %q, want %q", args, want)
	}
	stdin, _ := os.ReadFile(filepath.Join(bin, "first.stdin"))
	var conf struct{ RuntimeConfig json.RawMessage }
	if err := json.Unmarshal(stdin, &conf); err != nil {
		t.Fatal(err)
	}
	if want := `{"io.kubernetes.cri.pod-annotations":{"k":"v"},"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]}`; string(conf.RuntimeConfig) != want {
		t.Errorf("runtimeConfig %s\nwant %s", conf.RuntimeConfig, want)
	}
}

func TestAttachReadsResults(t *testing.T) {
	tests := []struct {
		name, result string
		want         string // addresses; "": an error
	}{
		{"one address", `"interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.5/24","interface":0}]`, "10.1.0.5"},
		{"the plugin's order is kept, one of each family", `"ips":[{"address":"fd00::5/64"},{"address":"10.1.0.5/24"},{"address":"fd00::6/64"},{"address":"10.1.0.6/24"}]`, "fd00::5 10.1.0.5"},
		{"other interfaces are not the pod's", `"interfaces":[{"name":"eth0"},{"name":"net1","sandbox":"/x"},{"name":"eth0","sandbox":"/x"}],
			"ips":[{"address":"10.1.0.1/24","interface":0},{"address":"10.2.0.5/24","interface":1},{"address":"10.1.0.5/24","interface":2},{"address":"10.9.0.5/24","interface":7}]`, "10.1.0.5"},
		{"no address", `"ips":[]`, ""},
		{"none of the pod's", `"interfaces":[{"name":"eth0"}],"ips":[{"address":"10.1.0.5/24","interface":0}]`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, _ := fakes(t, map[string]string{"first": "cat <<'X'\n{\"cniVersion\":\"1.0.0\"," + tt.result + "}\nX"})
			r, err := n.Attach(limited(t), Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first"))})
			if (err != nil) != (tt.want == "") || strings.Join(r.IPs, " ") != tt.want {
				t.Errorf("%v, %v; want %q", r.IPs, err, tt.want)
			}
		})
	}
}

func TestPluginErrors(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"by the spec", `echo '{"code":11,"msg":"try again","details":"later"}'; exit 1`, "try again; later"},
		{"on stderr", `echo "panic: oops" >&2; exit 2`, "CNI plugin first: exit status 2: panic: oops"},
		{"text on stdout", `echo "oops"; exit 2`, "CNI plugin first: exit status 2: not a CNI error: oops"},
		{"nothing", `exit 3`, "CNI plugin first: exit status 3: it gave no reason"},
		{"killed", `kill -9 $$`, "CNI plugin first: signal: killed: it gave no reason"},
		{"endless", `exec head -c 5000000 /dev/zero`, "invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, _ := fakes(t, map[string]string{"first": tt.body})
			_, err := n.Attach(limited(t), Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", "first"))})
			if !says(err, tt.want) {
				t.Errorf("Attach = %.300v, want %s", err, tt.want)
			}
		})
	}
}
