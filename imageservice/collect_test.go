package imageservice

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestCollect(t *testing.T) {
	b := newBench(t)
	one := b.reg.AddImage("one", "v1", append(layersOf("base", 1), layersOf("one", 1)...), nil)
	b.reg.AddImage("two", "v1", append(layersOf("base", 1), layersOf("two", 1)...), nil)
	b.pull(t, "one:v1")
	b.pull(t, "two:v1")
	b.fake.set(func() { b.fake.used[one.DiffIDs[1]] = true }) // a container of one
	if err := b.Remove(t.Context(), b.name("one:v1")); err != nil {
		t.Fatal(err)
	}
	if layers, seals, _ := b.fake.count(); layers != 3 || seals != 2 {
		t.Errorf("used: %d layers, %d seals", layers, seals)
	}
	b.reopen(t, Options{}) // it is not forgotten
	b.fake.set(func() { clear(b.fake.used) })
	if err := b.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if layers, seals, _ := b.fake.count(); layers != 2 || seals != 1 {
		t.Errorf("free: %d layers, %d seals", layers, seals)
	}
	if img := b.pull(t, "two:v1"); len(img.DiffIDs) != 2 {
		t.Errorf("got %+v", img)
	}
}

// TestCollectionsTakeTurns: whoever removes an image waits for a collection under way, and
// then the layers are gone; but no longer than its caller waits.
func TestCollectionsTakeTurns(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("x", 1), nil)
	b.pull(t, "app:v1")
	removing, proceed := make(chan struct{}), make(chan struct{})
	b.fake.set(func() {
		var once sync.Once
		b.fake.onRemove = func(digest.Digest) { once.Do(func() { close(removing); <-proceed }) }
	})
	errs := make(chan error, 2)
	go func() { errs <- b.Remove(t.Context(), b.name("app:v1")) }()
	<-removing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Collect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Collect with nobody waiting: %v", err)
	}
	go func() { errs <- b.Collect(t.Context()) }()
	select {
	case err := <-errs:
		t.Errorf("a collection did not wait for the one under way: %v", err)
	default:
	}
	close(proceed)
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if layers, _, _ := b.fake.count(); layers != 0 {
		t.Errorf("%d layers stay", layers)
	}
}

// TestCollectDuringPull collects when a pull has one layer and waits for the other, and pulls
// while a layer is just being removed.
func TestCollectDuringPull(t *testing.T) {
	b := newBench(t)
	layers := layersOf("x", 2)
	want := b.reg.AddImage("app", "v1", layers, nil)
	arrived, open := gate(b.reg, digest.FromBytes(layers[1].Blob).String())
	defer open()
	errs := make(chan error, 1)
	pull := func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		errs <- err
	}
	go pull()
	<-arrived
	for !b.fake.HasLayer(want.DiffIDs[0]) {
	}
	if err := b.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	open()
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	if _, _, added := b.fake.count(); added != 2 {
		t.Errorf("%d layers were added: one was collected", added)
	}

	removing, proceed := make(chan struct{}), make(chan struct{})
	b.fake.set(func() {
		var once sync.Once
		b.fake.onRemove = func(digest.Digest) { once.Do(func() { close(removing); <-proceed }) }
	})
	removed := make(chan error, 1)
	go func() { removed <- b.Remove(t.Context(), b.name("app:v1")) }()
	<-removing
	go pull()
	for held := false; !held; { // the pull waits for the layer that leaves
		b.guard.mu.Lock()
		held = len(b.guard.held) > 0
		b.guard.mu.Unlock()
	}
	close(proceed)
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	for _, d := range want.DiffIDs {
		if !b.fake.HasLayer(d) {
			t.Errorf("layer %s is gone", d)
		}
	}
}

// TestChurn pulls, removes, collects and lists at random, for the race detector and
// for the fake's checks. In the end all that is listed is there, and nothing stays behind.
func TestChurn(t *testing.T) {
	b := newBench(t)
	refs := []string{"a:v1", "b:v1", "c:v1"}
	b.reg.AddImage("a", "v1", append(layersOf("base", 2), layersOf("a", 1)...), nil)
	b.reg.AddImage("b", "v1", append(layersOf("base", 2), layersOf("b", 1)...), nil)
	b.reg.AddImage("c", "v1", layersOf("base", 2), nil)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for j := range 30 {
				ref := b.name(refs[(i+j)%3])
				switch (i + j) % 4 {
				case 0, 1:
					// A concurrent Remove may win between pull and Get.
					if _, err := b.Pull(t.Context(), PullRequest{Image: ref}); err != nil && !errors.Is(err, ErrNotFound) {
						t.Errorf("pull: %v", err)
					}
				case 2:
					if err := b.Remove(t.Context(), ref); err != nil {
						t.Errorf("remove: %v", err)
					}
				case 3:
					if err := b.Collect(t.Context()); err != nil {
						t.Errorf("collect: %v", err)
					}
					b.List()
					b.Progress()
				}
			}
		})
	}
	all.Wait()
	for _, img := range b.List() {
		if err := ready(t.Context(), b.fake, img.DiffIDs); err != nil {
			t.Errorf("%v: %v", img.Tags, err)
		}
	}
	for _, ref := range refs {
		if err := b.Remove(t.Context(), b.name(ref)); err != nil {
			t.Error(err)
		}
	}
	if layers, seals, _ := b.fake.count(); layers != 0 || seals != 0 {
		t.Errorf("%d layers and %d seals stay", layers, seals)
	}
}
