package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/config"
)

// TestMetricsAddress: an address that cannot be listened on is an error that names the option, and
// says what to do.
func TestMetricsAddress(t *testing.T) {
	dir := t.TempDir()
	open := func(address string) (*scrapeListener, error) {
		_, s, err := openMetrics(t.Context(), config.Config{Metrics: config.Metrics{Address: address}}, &sockets{})
		return s, err
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777); err != nil { //nolint:gosec // that is what is refused
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := "unix://" + filepath.Join(dir, "new", "s")
	s, err := open(socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ address, want string }{
		{busy.Addr().String(), "address already in use: stop what listens there, or choose another address"},
		{"192.0.2.1:1", "cannot assign requested address"},
		{socket, "another process serves on it; stop that one or choose another metrics.address"},
		{"unix://" + filepath.Join(dir, "file"), "there is something else, and not a socket"},
		{"unix://" + filepath.Join(shared, "s"), "others may write to it; choose another"},
	} {
		other, err := open(tt.address)
		if err == nil {
			other.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "metrics.address: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.address, err)
		}
	}
	s.Close()
	if s, err = open(socket); err != nil { // it has gone
		t.Fatal(err)
	}
	s.Close()
	if s, err = open(""); s != nil || err != nil {
		t.Errorf("nowhere: %v, %v", s, err)
	}
	s.Close()
}
