package operator

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/operator/api"
)

func (b *bench) push(t *testing.T, req *api.PushRequest) (*api.PushResponse, error) {
	t.Helper()
	stream, err := b.Push(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no digest at the end")
		}
		if err != nil {
			return nil, err
		}
		if resp.GetDigest() != "" {
			return resp, nil
		}
	}
}

// TestPush: what was pushed can be pulled, and is the same image.
func TestPush(t *testing.T) {
	b := openBench(t, "erofs")
	big := registrytest.Tar("big", strings.Repeat("big", 100_000))
	b.reg.AddImage("one", "1", []registrytest.Layer{ // compressed as nobody else would
		{Tar: big, Blob: append(registrytest.Gzip(big), registrytest.Gzip(nil)...)}, registrytest.GzipLayer(registrytest.Tar("b", "b")),
	}, nil)
	name := b.reg.Host() + "/one:1"
	img := b.mustPull(t, name)
	_, hers, _ := strings.Cut(img.Digests[0], "@")

	// To its own registry: nothing is sent but the manifest.
	same, err := b.push(t, &api.PushRequest{Image: img.Id, Target: b.reg.Host() + "/copy:2"})
	if err != nil || same.Digest != hers || same.Target != b.reg.Host()+"/copy:2" || len(b.reg.Requests("PUT", "/blobs/")) != 0 {
		t.Errorf("%v, %v: %v", same, err, b.reg.Requests("PUT"))
	}
	if n := len(b.reg.Requests("POST", "/v2/copy/blobs/uploads/")); n != 3 { // they are the other repository's
		t.Errorf("%d blobs mounted", n)
	}
	b.clear(t)
	if got := b.mustPull(t, b.reg.Host()+"/copy:2"); got.Id != img.Id {
		t.Error(got)
	}
	b.mustPull(t, name)
	// One that does not mount is sent all.
	b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		q := r.URL.Query()
		q.Del("mount")
		r.URL.RawQuery = q.Encode()
		return false
	})
	if resp, err := b.push(t, &api.PushRequest{Image: name, Target: b.reg.Host() + "/sent:1"}); err != nil || resp.Digest == hers || len(b.reg.Requests("PUT", "/v2/sent/blobs/")) != 3 {
		t.Errorf("%v, %v: %v", resp, err, b.reg.Requests("PUT"))
	}
	b.reg.SetFault(nil)
	// To another one, as whoever it knows.
	other := registrytest.New()
	t.Cleanup(other.Close)
	other.RequireBasic("me", "right-password")
	for how, want := range map[string]bool{"gzip": true, "zstd": true, "none": true, "xz": false} {
		target := other.Host() + "/" + how + ":1"
		resp, err := b.push(t, &api.PushRequest{Image: name, Target: target, Compress: how, Credentials: &api.Credentials{Username: "me", Password: "right-password"}})
		if (err == nil) != want {
			t.Errorf("%s: %v, %v", how, resp, err)
			continue
		}
		if !want {
			continue
		}
		if resp.Digest == hers {
			t.Errorf("%s: layers that are made again have the registry's digest", how)
		}
		b.clear(t)
		got, err := b.pull(t.Context(), &api.PullRequest{Image: target, Credentials: &api.Credentials{Username: "me", Password: "right-password"}})
		if err != nil || got.Id != img.Id || !strings.HasSuffix(got.Digests[0], "@"+resp.Digest) {
			t.Errorf("%s: %v, %v", how, got, err)
		}
		b.mustPull(t, name)
	}
	_, err = b.push(t, &api.PushRequest{Image: name, Target: other.Host() + "/x:1", Credentials: &api.Credentials{Username: "me", Password: "wrong-password"}})
	if err == nil || !strings.Contains(err.Error(), "not authorized") || strings.Contains(err.Error(), "wrong-password") {
		t.Errorf("a wrong password: %v", err)
	}
	for _, bad := range []*api.PushRequest{{}, {Image: "nothing:1"}, {Image: img.Id}, {Image: name, Target: img.Digests[0]}} {
		if resp, err := b.push(t, bad); err == nil {
			t.Errorf("%v: %v", bad, resp)
		}
	}
	if len(b.images.Progress()) > 0 {
		t.Error(b.images.Progress())
	}
}

// TestPushRefused: the registry's own reason is told, and credentials stay with the host they
// are for.
func TestPushRefused(t *testing.T) {
	b := openBench(t, "erofs")
	name := b.add("one", "a")
	b.mustPull(t, name)
	thief, other := registrytest.New(), registrytest.New()
	t.Cleanup(thief.Close)
	t.Cleanup(other.Close)
	other.RequireBasic("me", "right-password")
	login := &api.Credentials{Username: "me", Password: "right-password"}
	steal := false
	other.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Header.Get("Authorization") == "" || r.Method == http.MethodHead:
			return false
		case steal:
			w.Header().Set("Location", thief.URL+"/v2/one/blobs/uploads/one?state=x")
			w.WriteHeader(http.StatusAccepted)
		default:
			registrytest.Fail(w, http.StatusForbidden, "DENIED", "this repository is read-only")
		}
		return true
	})
	if _, err := b.push(t, &api.PushRequest{Image: name, Target: other.Host() + "/one:1", Credentials: login}); err == nil || !strings.Contains(err.Error(), "this repository is read-only") {
		t.Errorf("%v", err)
	}
	steal = true
	thief.RequireBasic("anybody", "x")
	if _, err := b.push(t, &api.PushRequest{Image: name, Target: other.Host() + "/one:1", Credentials: login}); err == nil {
		t.Error("a push to somebody else")
	}
	asked := thief.Requests("PUT")
	if len(asked) == 0 {
		t.Error("the upload did not go where the registry wants it")
	}
	for _, r := range asked {
		if r.Header.Get("Authorization") != "" {
			t.Error("the credentials went elsewhere")
		}
	}
}
