package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/node"
)

// nodeName is what kubelet calls itself; it ends the name of every static pod.
const nodeName = "berth-kubelet"

// A kubelet is one that runs without an API server.
type kubelet struct {
	n         *node.Fresh
	dir       string   // its own files
	manifests string   // the static pods
	root      string   // cgroup that its pods lie in; empty: the machine's own
	port      int      // its server
	readOnly  int      // the part of it that wants no TLS
	out       *os.File // what it says
	cmd       *exec.Cmd
	done      chan error
}

// second is how often kubelet looks at something: on a slow machine all its time would
// go into the looking otherwise.
var second = node.Patience(time.Second)

// configuration is what differs from kubelet's defaults: it works for itself alone,
// in folders of its own, and fast.
const configuration = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s
staticPodPath: %[2]s/manifests
podLogsDir: %[2]s/logs
volumePluginDir: %[2]s/plugins
address: 127.0.0.1
port: %[3]d
readOnlyPort: %[4]d
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupRoot: %[5]q
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
seccompDefault: true
oomScoreAdj: 0
fileCheckFrequency: %[6]s
syncFrequency: %[6]s
containerLogMaxSize: 16Ki
containerLogMaxFiles: 5
containerLogMonitorInterval: 3s
crashLoopBackOff: {maxContainerRestartPeriod: %[6]s}
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: 0%%, imagefs.available: 0%%, nodefs.inodesFree: 0%%, imagefs.inodesFree: 0%%, memory.available: 1Mi}
featureGates: {KubeletCrashLoopBackOffMax: true, PodAndContainerStatsFromCRI: true}
logging: {verbosity: 2}
`

// newKubelet writes a kubelet's settings. start starts it.
func newKubelet(t *testing.T, n *node.Fresh) *kubelet {
	t.Helper()
	k := &kubelet{n: n, dir: filepath.Join(n.World.Dir, "kubelet"), root: cgroupRoot(), port: freePort(t), readOnly: freePort(t)}
	k.manifests = filepath.Join(k.dir, "manifests")
	for _, d := range []string{k.manifests, k.path("plugins"), k.path("logs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(configuration, n.Node.Socket, k.dir, k.port, k.readOnly, k.root, second)
	if err := os.WriteFile(k.path("config.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	if k.out, err = os.Create(k.path("log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.stop(t)
		if t.Failed() {
			t.Logf("end of kubelet's log:\n%s", k.tail(60))
		}
		k.out.Close()
		unmountBelow(t, k.dir)
	})
	return k
}

// freePort is one that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func (k *kubelet) path(name string) string { return filepath.Join(k.dir, name) }

// start starts kubelet and waits until it answers.
func (k *kubelet) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(k.n.World.Bin("kubelet"), "--config", k.path("config.yaml"), "--root-dir", k.path("root"),
		"--cert-dir", k.path("certs"), "--hostname-override", nodeName)
	cmd.Stdout, cmd.Stderr = k.out, k.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k.cmd, k.done = cmd, make(chan error, 1)
	go func() { k.done <- cmd.Wait() }()
	until(t, "kubelet answers", func() error {
		select {
		case err := <-k.done:
			k.cmd = nil
			t.Fatalf("kubelet ended: %v\n%s", err, k.tail(20))
		default:
		}
		_, err := k.get(k.url("http", "/pods"))
		return err
	})
}

// stop ends kubelet, and leaves its pods alone.
func (k *kubelet) stop(t *testing.T) {
	t.Helper()
	if k.cmd == nil {
		return
	}
	if err := terminate(k.cmd.Process); err != nil {
		t.Error(err)
	}
	select {
	case <-k.done:
	case <-time.After(node.Patience(20 * time.Second)):
		t.Error("kubelet does not stop")
		_ = k.cmd.Process.Kill()
		<-k.done
	}
	k.cmd = nil
}

func (k *kubelet) tail(lines int) string {
	data, err := os.ReadFile(k.path("log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimSpace(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (k *kubelet) url(scheme, path string) string {
	port := k.readOnly
	if scheme == "https" {
		port = k.port
	}
	return fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, port, path)
}

// client takes kubelet's own certificate, which nobody has signed. A connection is
// for one question: kubelet and what serves in pods come and go.
var client = &http.Client{Timeout: node.Patience(20 * time.Second), Transport: &http.Transport{DisableKeepAlives: true,
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

func (k *kubelet) get(url string) ([]byte, error) { return answer(client.Get(url)) }

// run runs a command in a container by kubelet's server and returns what it prints.
func (k *kubelet) run(pod, container string, cmd ...string) (string, error) {
	q := url.Values{"cmd": {strings.Join(cmd, " ")}}
	data, err := answer(client.Post(k.url("https", "/run/default/"+pod+"-"+nodeName+"/"+container+"?"+q.Encode()), "", nil))
	return strings.TrimSpace(string(data)), err
}

// log is what a container wrote, by kubelet's server.
func (k *kubelet) log(pod, container string) (string, error) {
	data, err := k.get(k.url("https", "/containerLogs/default/"+pod+"-"+nodeName+"/"+container))
	return string(data), err
}

func answer(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	return data, err
}

// errNoPod: kubelet does not know it, yet or any more.
var errNoPod = errors.New("kubelet has no such pod")

// pod is what kubelet says of a static pod.
func (k *kubelet) pod(name string) (pod, error) {
	data, err := k.get(k.url("http", "/pods"))
	if err != nil {
		return pod{}, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal(data, &list); err != nil {
		return pod{}, err
	}
	for _, p := range list.Items {
		if p.Metadata.Name == name+"-"+nodeName {
			return p, nil
		}
	}
	return pod{}, fmt.Errorf("%s: %w", name, errNoPod)
}

// until waits for a condition, which says what there is to wait for as yet.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), node.Patience(90*time.Second))
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not in time: %v", what, err)
		case <-time.After(second / 10):
		}
	}
}
