package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodMoves(t *testing.T) {
	all := []State{Creating, Ready, Stopping, NotReady, Removing}
	may := map[[2]State]bool{
		{Creating, Ready}: true, {Creating, NotReady}: true, {Creating, Removing}: true,
		{Ready, Stopping}: true, {Ready, NotReady}: true,
		{Stopping, Stopping}: true, {Stopping, NotReady}: true,
		{NotReady, Stopping}: true, {NotReady, Removing}: true,
		{Removing, Removing}: true,
	}
	for _, from := range all {
		for _, next := range all {
			p := testPod(t, from)
			err := p.move(next, nil)
			if want := may[[2]State{from, next}]; (err == nil) != want {
				t.Errorf("%s to %s: %v, want allowed=%t", from, next, err, want)
			}
			if err != nil && (!errors.Is(err, ErrBadState) || p.Record().State != from) {
				t.Errorf("%s to %s: %v, state %s", from, next, err, p.Record().State)
			}
		}
	}
}

// A full or broken disk must not keep a pod from being given up, but a promise
// that cannot be saved is not made.
func TestMoveWithoutDisk(t *testing.T) {
	p := testPod(t, Creating)
	p.path = filepath.Join(t.TempDir(), "absent", "pod.json")
	if err := p.move(Ready, nil); err == nil || p.Record().State != Creating {
		t.Errorf("ready without a record: %v, state %s", err, p.Record().State)
	}
	p = testPod(t, Ready)
	p.path = filepath.Join(t.TempDir(), "absent", "pod.json")
	if err := p.move(Stopping, nil); err != nil || p.Record().State != Stopping {
		t.Errorf("stopping without a record: %v, state %s", err, p.Record().State)
	}
}

func TestRecordSurvives(t *testing.T) {
	p := testPod(t, Creating)
	if err := p.move(Ready, func(r *PodRecord) { r.IPs = []string{"10.0.0.1"} }); err != nil {
		t.Fatal(err)
	}
	var got PodRecord
	if err := loadRecord(p.path, &got); err != nil {
		t.Fatal(err)
	}
	if got.State != Ready || got.IPs[0] != "10.0.0.1" || got.Config().GetAnnotations()["a"] != "<b>&\u2028" {
		t.Errorf("loaded %+v, annotations %q", got, got.Config().GetAnnotations())
	}
	data, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data { // a torn or changed record is noticed, whatever the byte
		torn := append([]byte(nil), data...)
		torn[i] ^= 1
		if err := os.WriteFile(p.path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := loadRecord(p.path, &PodRecord{}); err == nil {
			t.Fatalf("byte %d changed and nobody noticed", i)
		}
		if err := os.WriteFile(p.path, data[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := loadRecord(p.path, &PodRecord{}); !errors.Is(err, errDamaged) {
			t.Fatalf("cut after %d bytes: %v", i, err)
		}
	}
}

func testPod(t *testing.T, s State) *Pod {
	t.Helper()
	cfg, err := newMessage(&runtimeapi.PodSandboxConfig{
		Metadata:    &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u"},
		Annotations: map[string]string{"a": "<b>&\u2028"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &Pod{containers: map[string]*Container{}}
	p.path = filepath.Join(t.TempDir(), "pod.json")
	p.set(PodRecord{ID: newID(), State: s, PodConfig: cfg})
	return p
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]int{"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN+3": 37, "RTMAX-1": 63, "SIGRTMIN": 34,
		"": 0, "SIGNONE": 0, "0": 0, "65": 0, "-1": 0, "SIGRTMAX+1": 0} {
		if n, ok := signalNumber(name); ok != (want != 0) || ok && n != want {
			t.Errorf("signalNumber(%q) = %d, %t; want %d", name, n, ok, want)
		}
	}
	for s := range runtimeapi.Signal(66) {
		name := s.String()[len("SIGNAL_"):]
		want, ok := map[string]int{"RUNTIME_DEFAULT": 0, "SIGCLD": 17, "SIGPOLL": 29, "SIGIOT": 6}[name]
		if !ok {
			want, _ = signalNumber(replaceWords(name))
		}
		if n, _ := signalOfCRI(s); n != want {
			t.Errorf("%s = %d, want %d", s, n, want)
		}
	}
	if s := CRISignal(15); s != runtimeapi.Signal_SIGNAL_SIGTERM {
		t.Errorf("CRISignal(15) = %s", s)
	}
}

func TestTable(t *testing.T) {
	var tab table[int]
	tab.put("abc1", 1)
	tab.put("abd2", 2)
	for id, want := range map[string]error{"abc1": nil, "abd": nil, "ab": ErrAmbiguous, "x": ErrNotFound, "": ErrNotFound} {
		if _, err := tab.find(id); !errors.Is(err, want) {
			t.Errorf("find(%q) = %v, want %v", id, err, want)
		}
	}
}
