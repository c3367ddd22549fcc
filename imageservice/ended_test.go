package imageservice

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestEnded: whoever is to be told of pulls' ends is told of each transfer once.
func TestEnded(t *testing.T) {
	b := newBench(t)
	var told []Ended
	b.reopen(t, Options{Ended: func(e Ended) { told = append(told, e) }})
	img := b.reg.AddImage("app", "v1", []registrytest.Layer{{Tar: registrytest.Tar("f", "x")}}, nil)
	pull := func(name string) Ended {
		t.Helper()
		told = nil
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name(name)})
		if len(told) != 1 || (err == nil) != (told[0].Err == nil) || told[0].Took <= 0 || len(told[0].Stages) == 0 {
			t.Fatalf("%v: %+v", err, told)
		}
		return told[0]
	}
	b.fake.broken = fmt.Errorf("write: %w", syscall.ENOSPC)
	if e := pull("app:v1"); !e.DiskFull || e.Present || !errors.Is(e.Err, syscall.ENOSPC) {
		t.Errorf("%+v", e)
	}
	b.fake.broken = nil
	if e := pull("app:v1"); e.DiskFull || e.Present {
		t.Errorf("%+v", e)
	}
	if e := pull("app:v1"); !e.Present {
		t.Errorf("%+v", e)
	}
	if e := pull("app@" + img.Digest.String()); !e.Present {
		t.Errorf("%+v", e)
	}
	if e := pull("app:v2"); e.Present || !errors.Is(e.Err, ErrNotFound) {
		t.Errorf("%+v", e)
	}
	b.background.Wait()
	if u := b.Measured(); u.Bytes == 0 || b.Received() == 0 {
		t.Errorf("%+v, %d bytes", u, b.Received())
	}
}

// TestMoved: the time since nothing has come begins when a layer is asked for.
func TestMoved(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", []registrytest.Layer{{Tar: registrytest.Tar("f", "x")}}, nil)
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	b.reg.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			<-answer
		}
		return false
	})
	done := make(chan error)
	go func() {
		_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
		done <- err
	}()
	<-asked // for the configuration
	if p := b.Progress()[0]; !p.Moved.Equal(p.Since) {
		t.Errorf("%+v", p)
	}
	answer <- struct{}{}
	<-asked
	if p := b.Progress()[0]; !p.Moved.After(p.Since) {
		t.Errorf("%+v", p)
	}
	answer <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
