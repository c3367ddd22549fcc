package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A bench is figures of a real store with a registry, served on loopback.
type bench struct {
	*Metrics
	reg    *registrytest.Server
	images *imageservice.Service
	server *Server
	url    string
	client *http.Client
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{Metrics: New("1.2.3"), reg: registrytest.New(), client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(b.reg.Close)
	t.Cleanup(b.client.CloseIdleConnections)
	root := t.TempDir()
	layers, err := snapshot.Open(t.Context(), "overlay", filepath.Join(root, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	if b.images, err = imageservice.Open(t.Context(), imageservice.Options{Root: filepath.Join(root, "images"), Layers: layers, Ended: b.PullEnded}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.images.Close)
	b.Attach(Sources{
		Images: b.images, Owed: func() int { return 3 }, Shims: func() map[string]int { return map[string]int{"v1": 2} },
		Pods:       func() map[string]int { return map[string]int{"ready": 2, "notready": 0} },
		Containers: func() map[string]int { return map[string]int{"running": 5} },
		Ready:      func() map[string]bool { return map[string]bool{"RuntimeReady": true, "NetworkReady": false} },
	})
	b.server = b.Metrics.server()
	return b
}

func (b *bench) serve(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.server.start(l)
	t.Cleanup(b.server.Close)
	b.url = "http://" + l.Addr().String() + "/metrics"
}

func (b *bench) text(t *testing.T) string {
	t.Helper()
	resp, err := b.client.Get(b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, data)
	}
	return string(data)
}

type families map[string]*dto.MetricFamily

func (b *bench) scrape(t *testing.T) families {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(b.text(t)))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// value is a gauge's or counter's, or how many a histogram has seen; -1 when it is not there.
// labels are name, value, name, value.
func (f families) value(name string, labels ...string) float64 {
	for _, m := range f[name].GetMetric() {
		var have []string
		for _, l := range m.GetLabel() {
			have = append(have, l.GetName(), l.GetValue())
		}
		if !slices.Equal(have, labels) {
			continue
		}
		if h := m.GetHistogram(); h != nil {
			return float64(h.GetSampleCount())
		}
		return m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return -1
}

// check compares values with what is wanted, by "name label value".
func (f families) check(t *testing.T, want map[string]float64) {
	t.Helper()
	for key, v := range want {
		words := strings.Fields(key)
		if got := f.value(words[0], words[1:]...); got != v {
			t.Errorf("%s: %v, want %v", key, got, v)
		}
	}
}

// images are the values of the label image.
func (f families) images() (all []string) {
	for _, family := range f {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "image" && !slices.Contains(all, l.GetValue()) {
					all = append(all, l.GetValue())
				}
			}
		}
	}
	return all
}

// incompressible is text of n bytes that no compression makes much smaller.
func incompressible(n int) string {
	text := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(text)
	return string(text)
}

// hang has the registry send half of a blob after half is closed, and the rest after release is.
func (b *bench) hang(blob []byte) (half, release chan struct{}) {
	half, release = make(chan struct{}), make(chan struct{})
	b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/"+digest.FromBytes(blob).String()) {
			return false
		}
		select {
		case <-half:
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = w.Write(blob[:len(blob)/2])
		w.(http.Flusher).Flush()
		select {
		case <-release:
			_, _ = w.Write(blob[len(blob)/2:])
		case <-r.Context().Done():
		}
		return true
	})
	return half, release
}

// TestPulls: a scrape while a pull hangs tells of it at once, and nothing of it when it has ended.
func TestPulls(t *testing.T) {
	b := newBench(t)
	b.serve(t)
	large, small := registrytest.GzipLayer(registrytest.Tar("large", incompressible(200<<10))), registrytest.GzipLayer(registrytest.Tar("small", "x"))
	img := b.reg.AddImage("one", "1", []registrytest.Layer{large, small}, nil)
	b.reg.RequireBasic("somebody", "secret-word")
	begin, release := b.hang(large.Blob)
	name := b.reg.Host() + "/one:1"
	auth := &imageservice.Auth{Username: "somebody", Password: "secret-word"}
	done := make(chan error)
	pull := func(name string) {
		_, err := b.images.Pull(t.Context(), imageservice.PullRequest{Image: name, Auth: auth})
		done <- err
	}
	go pull(name)
	f := b.scrape(t)
	for f.value("berth_pull_stage", "image", name, "stage", "connecting") != 1 {
		f = b.scrape(t)
	}
	asked := b.images.Progress()[0]
	if !asked.Moved.After(asked.Since) || f.value("berth_pull_seconds_since_bytes", "image", name) < 0 {
		t.Errorf("a layer was asked for: %+v", asked)
	}
	close(begin)
	half := float64(len(large.Blob)/2 + len(small.Blob))
	for f.value("berth_pull_bytes", "image", name) != half || f.value("berth_pull_layers_done", "image", name) != 1 {
		f = b.scrape(t)
	}
	f = b.scrape(t) // one scrape's figures are read side by side; nothing moves any more
	f.check(t, map[string]float64{
		"berth_pulls_running":                                   1,
		"berth_pull_bytes_expected image " + name:               float64(len(large.Blob) + len(small.Blob)),
		"berth_pull_layers image " + name:                       2,
		"berth_pull_stage image " + name + " stage downloading": 1,
		"berth_pulls_total result pulled":                       0,
		"berth_pull_seconds":                                    0,
		"berth_pull_bytes_total":                                half,
		"berth_images":                                          0,
		"berth_ready condition RuntimeReady":                    1,
		"berth_ready condition NetworkReady":                    0,
		"berth_pods state ready":                                2,
		"berth_pods state notready":                             0,
		"berth_containers state running":                        5,
		"berth_addresses_owed":                                  3,
		"berth_shims version v1":                                2,
	})
	first := f.value("berth_pull_seconds_since_bytes", "image", name)
	if later := b.scrape(t).value("berth_pull_seconds_since_bytes", "image", name); first < 0 || later <= first {
		t.Errorf("silent for %v, and later for %v", first, later)
	}
	if p := b.images.Progress()[0]; !p.Moved.After(asked.Moved) {
		t.Errorf("nothing has come since %v: %v", asked.Moved, p.Moved)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.reg.SetFault(nil)
	for _, again := range []struct {
		name string
		ok   bool
	}{{name, true}, {b.reg.Host() + "/one:2", false}, {"user:password@" + name, false}, {"https://user:password@" + name, false}} {
		go pull(again.name)
		if err := <-done; (err == nil) != again.ok {
			t.Errorf("%s: %v", again.name, err)
		}
	}
	text := b.text(t)
	for _, secret := range []string{"secret", "somebody", "password", name, img.ID.Encoded()[:12]} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the figures", secret)
		}
	}
	f = b.scrape(t)
	if images := f.images(); images != nil {
		t.Errorf("still told of: %v", images)
	}
	f.check(t, map[string]float64{
		"berth_pulls_running": 0, "berth_pulls_total result pulled": 1, "berth_pulls_total result present": 1, "berth_pulls_total result not_found": 1,
		"berth_pulls_total result failed": 0, "berth_pull_seconds": 1, "berth_images": 1, "berth_pull_bytes_total": float64(len(large.Blob) + len(small.Blob)),
		"berth_download_bytes": 0,
	})
	if f.value("berth_pull_stage_seconds_total", "stage", "transfer") <= 0 || f.value("berth_image_bytes") < 200<<10 {
		t.Error("no time, or no space, was taken")
	}
}

// TestPullsAreBounded: of many pulls 64 are told of, those that began first, and each image once.
func TestPullsAreBounded(t *testing.T) {
	began := time.Now()
	var list []imageservice.Progress
	for i := range 100 {
		image := fmt.Sprintf("r.example/i:%d", i)
		list = append(list, imageservice.Progress{Image: image, Work: "pulling", Since: began.Add(-time.Duration(i) * time.Second)},
			imageservice.Progress{Image: image, Work: "pulling", Since: began.Add(time.Millisecond - time.Duration(i)*time.Second)}, imageservice.Progress{Image: image, Work: "pushing", Since: began.Add(-time.Hour)})
	}
	all, shown := pulls(list)
	if all != 200 || len(shown) != maxPulls || shown[0].Image != "r.example/i:99" || shown[63].Image != "r.example/i:36" {
		t.Errorf("%d, %d: %v", all, len(shown), shown)
	}
}

// TestCalls: calls are counted by method and code, for no memory.
func TestCalls(t *testing.T) {
	b := newBench(t)
	b.serve(t)
	const run, pull = "/runtime.v1.RuntimeService/RunPodSandbox", "/berth.v1.Images/Pull"
	for _, code := range []codes.Code{codes.OK, codes.OK, codes.NotFound, 99, 12345} {
		b.CallBegan(run)
		b.CallEnded(run, code, time.Second)
	}
	b.CallBegan(pull)
	b.Stage("pod", "network", time.Second, nil)
	b.Stage("pod", "network", time.Second, errors.New("secret"))
	f := b.scrape(t)
	f.check(t, map[string]float64{
		"berth_cri_seconds code OK method RunPodSandbox": 2, "berth_cri_seconds code NotFound method RunPodSandbox": 1, "berth_cri_seconds code Unknown method RunPodSandbox": 2,
		"berth_cri_calls method RunPodSandbox": 0, "berth_cri_calls method berth.v1.Images/Pull": 1,
		"berth_stage_seconds object pod stage network": 2, "berth_stage_failures_total object pod stage network": 1,
	})
	if n := testing.AllocsPerRun(100, func() {
		b.CallBegan(run)
		b.CallEnded(run, codes.OK, time.Second)
		b.Stage("pod", "network", time.Second, nil)
	}); n != 0 {
		t.Errorf("%v allocations for a call", n)
	}
	var none *Metrics // metrics.address is ""
	none.CallBegan(run)
	none.CallEnded(run, codes.OK, 0)
	none.Stage("pod", "network", 0, nil)
	none.PullEnded(imageservice.Ended{})
	none.Attach(Sources{})
}

// TestResults: each error of a pull has its result, and every result is one that there is.
func TestResults(t *testing.T) {
	for want, e := range map[string]imageservice.Ended{
		"pulled": {}, "present": {Present: true}, "canceled": {Err: context.Canceled}, "disk_full": {Err: imageservice.ErrCorrupt, DiskFull: true},
		"unauthorized": {Err: fmt.Errorf("x: %w", imageservice.ErrUnauthorized)}, "not_found": {Err: imageservice.ErrNotFound}, "unavailable": {Err: imageservice.ErrUnavailable},
		"config": {Err: imageservice.ErrConfig}, "unsupported": {Err: imageservice.ErrUnsupported}, "too_large": {Err: imageservice.ErrTooLarge},
		"corrupt": {Err: imageservice.ErrCorrupt}, "failed": {Err: io.ErrUnexpectedEOF},
	} {
		if got := resultOf(e); got != want {
			t.Errorf("%+v is %q, want %q", e, got, want)
		}
	}
}

// everything has a figure of every family.
func (b *bench) everything(t *testing.T) (end func()) {
	t.Helper()
	layer := registrytest.GzipLayer(registrytest.Tar("large", incompressible(64<<10)))
	b.reg.AddImage("one", "1", []registrytest.Layer{layer}, nil)
	b.reg.AddImage("two", "1", nil, nil)
	half, release := b.hang(layer.Blob)
	close(half)
	done := make(chan error)
	pull := func(name string) {
		_, err := b.images.Pull(t.Context(), imageservice.PullRequest{Image: b.reg.Host() + "/" + name})
		done <- err
	}
	go pull("two:1")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go pull("one:1")
	b.CallBegan("/runtime.v1.RuntimeService/Version")
	b.CallEnded("/runtime.v1.RuntimeService/Version", codes.OK, time.Millisecond)
	b.Stage("pod", "network", time.Millisecond, errors.New("x"))
	for b.scrape(t).value("berth_pull_bytes", "image", b.reg.Host()+"/one:1") <= 0 {
	}
	return func() {
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestLint: Prometheus' own linter has no complaint.
func TestLint(t *testing.T) {
	b := newBench(t)
	b.serve(t)
	defer b.everything(t)()
	problems, err := promlint.New(strings.NewReader(b.text(t))).Lint()
	if err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// BenchmarkCall is what a call costs more where metrics are served.
func BenchmarkCall(b *testing.B) {
	m := New("1.2.3")
	for b.Loop() {
		m.CallBegan("/runtime.v1.RuntimeService/Version")
		m.CallEnded("/runtime.v1.RuntimeService/Version", codes.OK, time.Millisecond)
	}
}
