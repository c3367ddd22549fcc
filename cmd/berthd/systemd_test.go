package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestTell(t *testing.T) {
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	tell("", "Finding pods")
	tell("READY=1", "Serving")
	for _, want := range []string{"STATUS=Finding pods", "READY=1\nSTATUS=Serving"} {
		buf := make([]byte, 1000)
		n, err := notify.Read(buf)
		if err != nil || strings.TrimSpace(string(buf[:n])) != want {
			t.Errorf("heard %q, %v", buf[:n], err)
		}
	}
}
