package imageservice

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestProgress looks at two pulls that share a layer, which is held up in the registry and
// then on its way to the disk.
func TestProgress(t *testing.T) {
	b := newBench(t)
	shared, own := registrytest.GzipLayer(registrytest.Tar("shared", "x")), registrytest.GzipLayer(registrytest.Tar("own", "y"))
	one := b.reg.AddImage("one", "1", []registrytest.Layer{shared}, nil)
	b.reg.AddImage("two", "1", []registrytest.Layer{own, shared}, nil)
	blob := digest.FromBytes(shared.Blob)
	unpacking, proceed := make(chan struct{}), make(chan struct{})
	b.fake.onAdd = func(d digest.Digest) {
		if d == one.DiffIDs[0] {
			close(unpacking)
			<-proceed
		}
	}
	arrived, open := gate(b.reg, blob.String())
	defer open()
	ended := make(chan error, 2)
	pull := func(image, who string) {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name(image), For: who})
		ended <- err
	}
	layer := func(p Progress) LayerProgress {
		for _, l := range p.Unfinished {
			if l.Blob == blob {
				return l
			}
		}
		return LayerProgress{}
	}

	go pull("one:1", "shop/web")
	<-arrived
	p := b.Progress()
	if len(p) != 1 || p[0].Stage != StageLayers || len(p[0].For) != 1 || p[0].For[0] != "shop/web" || layer(p[0]).Stage != StageConnecting || layer(p[0]).Size != int64(len(shared.Blob)) {
		t.Fatalf("%+v", p)
	}
	go pull("two:1", "")
	for len(p) != 2 || layer(p[1]).Stage != StageShared || p[1].Done != 1 { // the layer of its own has come
		p = b.Progress()
	}
	if l := layer(p[1]); l.WaitingFor != b.name("one:1") || len(p[1].Unfinished) != 1 || p[1].For != nil || p[1].Total != int64(len(own.Blob)+len(shared.Blob)) {
		t.Errorf("%+v", p[1])
	}
	open()
	<-unpacking
	if l := layer(b.Progress()[0]); l.Host != b.reg.Host() || l.Stage != StageDownloading && l.Stage != StageUnpacking {
		t.Errorf("%+v", l)
	}
	close(proceed)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if p := b.Progress(); len(p) != 0 || len(b.progress.asked) != 0 {
		t.Errorf("left: %+v %v", p, b.progress.asked)
	}
	if p := b.List()[0].Pulled; p.IsZero() {
		t.Error("an image does not know when it was pulled")
	}
}

// TestDoing: one layer speaks for all, the one that does most.
func TestDoing(t *testing.T) {
	layers := []LayerProgress{
		{Stage: StagePending}, {Stage: StageQueued}, {Stage: StageShared, WaitingFor: "r.example/b:1"}, {Stage: StageSyncing}, {Stage: StageDownloading, Host: "r.example"},
		{Stage: StageUploading, Host: "r.example"},
	}
	want := []string{"layers", string(StageQueued), "waiting for the pull of r.example/b:1", "syncing", "downloading from r.example", "uploading to r.example"}
	for i := range layers {
		if got := (Progress{Stage: StageLayers, Unfinished: layers[:i+1]}).Doing(); got != want[i] {
			t.Errorf("%d layers: %q, want %q", i+1, got, want[i])
		}
	}
	if got := (Progress{Stage: StageSealing}).Doing(); got != "sealing" {
		t.Error(got)
	}
}
