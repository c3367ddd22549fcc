package imageservice

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

func TestFlights(t *testing.T) {
	var fs flights[string, int]
	started, finish := make(chan struct{}), make(chan int)
	work := func(ctx context.Context) (int, error) {
		close(started)
		select {
		case n := <-finish:
			return n, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	type result struct {
		n   int
		led bool
		err error
	}
	ask := func(ctx context.Context) chan result {
		out := make(chan result, 1)
		go func() {
			n, led, err := fs.do(ctx, "k", work)
			out <- result{n, led, err}
		}()
		return out
	}
	joined := func(n int) { // waits until n askers are counted
		for {
			fs.mu.Lock()
			f := fs.flying["k"]
			ok := f != nil && f.askers == n
			fs.mu.Unlock()
			if ok {
				return
			}
		}
	}
	first, goAway := context.WithCancel(t.Context())
	a := ask(first)
	<-started
	b := ask(t.Context())
	joined(2)
	goAway() // the one who began it
	if r := <-a; !errors.Is(r.err, context.Canceled) || !r.led {
		t.Errorf("first: %+v", r)
	}
	finish <- 7
	if r := <-b; r != (result{n: 7}) {
		t.Errorf("second: %+v", r)
	}

	started = make(chan struct{})
	only, goAway := context.WithCancel(t.Context())
	a = ask(only)
	<-started
	goAway()
	if r := <-a; !errors.Is(r.err, context.Canceled) {
		t.Errorf("only: %+v", r)
	}
	fs.running.Wait() // the work was cancelled
	fs.close()
}

// TestAbandonedFlight asks while an abandoned flight is still landing.
func TestAbandonedFlight(t *testing.T) {
	var fs flights[string, int]
	landing, landed := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := fs.do(ctx, "k", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			close(landing)
			<-landed
			return 0, ctx.Err()
		})
		done <- err
	}()
	for flying := false; !flying; {
		fs.mu.Lock()
		flying = fs.flying["k"] != nil
		fs.mu.Unlock()
	}
	cancel()
	<-done
	<-landing
	again := make(chan int, 1)
	go func() {
		n, _, _ := fs.do(t.Context(), "k", func(context.Context) (int, error) { return 5, nil })
		again <- n
	}()
	close(landed)
	if n := <-again; n != 5 {
		t.Errorf("got %d", n)
	}
	fs.close()
}

// gate holds every request for a path that contains word until open is called.
func gate(s *registrytest.Server, word string) (arrived chan struct{}, open func()) {
	arrived, wait := make(chan struct{}, 100), make(chan struct{})
	s.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, word) {
			arrived <- struct{}{}
			select {
			case <-wait:
			case <-r.Context().Done():
			}
		}
		return false
	})
	return arrived, sync.OnceFunc(func() { close(wait) })
}

func TestManyAskForOneImage(t *testing.T) {
	b := newBench(t)
	want := b.reg.AddImage("app", "v1", layersOf("one", 3), nil)
	arrived, open := gate(b.reg, "/manifests/")
	defer open()
	impatient, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 21)
	go func() {
		_, err := b.Pull(impatient, PullRequest{Image: b.name("app:v1")})
		errs <- err
	}()
	<-arrived
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			img, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
			if err == nil && img.ID != want.ID {
				err = fmt.Errorf("got %+v", img)
			}
			errs <- err
		})
	}
	for joined := 0; joined < 21; { // all are waiting for the same transfer
		b.pulls.mu.Lock()
		joined = 0
		for _, f := range b.pulls.flying {
			joined += f.askers
		}
		b.pulls.mu.Unlock()
	}
	if p := b.Progress(); len(p) != 1 || p[0].Image != b.name("app:v1") {
		t.Errorf("progress %+v", p)
	}
	cancel() // of the one who began
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the impatient got %v", err)
	}
	open()
	all.Wait()
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := len(b.reg.Requests("/blobs/")); n != 4 {
		t.Errorf("%d blobs fetched", n)
	}
}

// TestSharedLayer has two images with a layer in common, pulled at once. The pull that
// fetches the layer is cancelled; the other gets it all the same.
func TestSharedLayer(t *testing.T) {
	b := newBench(t)
	common := layersOf("common", 1)
	b.reg.AddImage("one", "v1", common, nil)
	two := b.reg.AddImage("two", "v1", append(layersOf("two", 1), common...), nil)
	blob := digest.FromBytes(common[0].Blob).String()
	arrived, open := gate(b.reg, blob)
	defer open()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() {
		_, err := b.Pull(ctx, PullRequest{Image: b.name("one:v1")})
		errs <- err
	}()
	<-arrived
	result := make(chan error, 1)
	go func() {
		img, err := b.Pull(t.Context(), PullRequest{Image: b.name("two:v1")})
		if err == nil && img.ID != two.ID {
			err = fmt.Errorf("got %+v", img)
		}
		result <- err
	}()
	for askers := 0; askers < 2; {
		b.layerFlights.mu.Lock()
		if f := b.layerFlights.flying[two.DiffIDs[1]]; f != nil {
			askers = f.askers
		}
		b.layerFlights.mu.Unlock()
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("one: %v", err)
	}
	open()
	if err := <-result; err != nil {
		t.Errorf("two: %v", err)
	}
	if n := len(b.reg.Requests("/blobs/" + blob)); n != 1 {
		t.Errorf("the common layer was fetched %d times", n)
	}
}

// TestFailedLayerIsTriedAgain has the fetching pull fail on the common layer; the one that waits
// for it tries with its own repository.
func TestFailedLayerIsTriedAgain(t *testing.T) {
	b := newBench(t)
	common := layersOf("common", 1)
	b.reg.AddImage("one", "v1", common, nil)
	b.reg.AddImage("two", "v1", common, nil)
	blob := digest.FromBytes(common[0].Blob).String()
	arrived, wait := make(chan struct{}, 10), make(chan struct{})
	b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/one/blobs/"+blob {
			return false
		}
		arrived <- struct{}{}
		<-wait
		registrytest.Fail(w, http.StatusForbidden, "DENIED", "not you")
		return true
	})
	errs := make(chan error, 2)
	go func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("one:v1")})
		errs <- err
	}()
	<-arrived
	result := make(chan error, 1)
	go func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("two:v1")})
		result <- err
	}()
	for askers := 0; askers < 2; {
		b.layerFlights.mu.Lock()
		for _, f := range b.layerFlights.flying {
			askers = f.askers
		}
		b.layerFlights.mu.Unlock()
	}
	close(wait)
	if err := <-errs; !errors.Is(err, ErrUnauthorized) {
		t.Errorf("one: %v", err)
	}
	if err := <-result; err != nil {
		t.Errorf("two: %v", err)
	}
}

// TestClose cancels what is under way.
func TestClose(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("c", 1), nil)
	arrived, open := gate(b.reg, "/blobs/")
	defer open()
	errs := make(chan error, 1)
	go func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		errs <- err
	}()
	<-arrived
	b.Close()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("Pull: %v", err)
	}
}

// TestOthersCredentialsDoNotHelp asks without credentials while a pull with some is under way.
func TestOthersCredentialsDoNotHelp(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("x", 1), nil)
	b.reg.RequireBasic("me", "password")
	arrived, open := gate(b.reg, "/blobs/")
	defer open()
	errs := make(chan error, 1)
	go func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1"), Auth: &Auth{Username: "me", Password: "password"}})
		errs <- err
	}()
	<-arrived
	nobody := make(chan error, 1)
	go func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		nobody <- err
	}()
	if err := <-nobody; !errors.Is(err, ErrUnauthorized) {
		t.Errorf("nobody: %v", err)
	}
	open()
	if err := <-errs; err != nil {
		t.Error(err)
	}
}
