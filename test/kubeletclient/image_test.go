package kubeletclient

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berthd/berth/test/node"
)

// TestImages pulls, finds, lists and removes an image; the client checks that
// its ID and size are there.
func TestImages(t *testing.T) {
	s, ctx := open(t)
	spec := &runtimeapi.ImageSpec{Image: busybox}
	st, err := s.image.ImageStatus(ctx, spec, false)
	if err != nil || st.GetImage() != nil {
		t.Errorf("an image that is not there: %v, %v", st, err)
	}
	id := s.pull(t, ctx)
	if st, err = s.image.ImageStatus(ctx, spec, true); err != nil || st.GetImage().GetId() != id || st.GetInfo()["info"] == "" {
		t.Errorf("status %v, %v; want %s", st, err, id)
	}
	list, err := s.image.ListImages(ctx, &runtimeapi.ImageFilter{Image: spec})
	if err != nil || len(list) != 1 || list[0].GetId() != id {
		t.Errorf("list %v, %v", list, err)
	}
	for range 2 {
		if err := s.image.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: id}); err != nil {
			t.Error(err)
		}
	}
	s.Done(t)
}

// TestRegistryUnavailable expects kubelet's prefix as the first bytes of the
// error that the client hands on, for every way of being unreachable: only then
// is the pod's reason RegistryUnavailable.
func TestRegistryUnavailable(t *testing.T) {
	s, ctx := open(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	address := closed.Addr().String()
	closed.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	hangsUp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }))
	defer hangsUp.Close()
	for host, url := range map[string]string{
		"hangsup.test": hangsUp.URL, "noroute.test": "http://224.0.0.1:5000",
		"closed.test": "http://" + address, "unresolved.test": "http://no-such-host.invalid", "broken.test": plain.URL,
		"notls.test": "https" + strings.TrimPrefix(plain.URL, "http"), "unknownca.test": secure.URL,
	} {
		t.Run(host, func(t *testing.T) {
			if err := node.Lead(s.World.Certs, host, url); err != nil {
				t.Fatal(err)
			}
			_, err := s.image.PullImage(ctx, &runtimeapi.ImageSpec{Image: host + "/image:1"}, nil, nil)
			if err == nil || !strings.HasPrefix(err.Error(), crierrors.ErrRegistryUnavailable.Error()) {
				t.Errorf("kubelet sees %v", err)
			}
		})
	}
	s.Done(t)
}
