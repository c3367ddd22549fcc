package netns

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestEvidence tells a network that serves nobody from a pod that cannot be served.
func TestEvidence(t *testing.T) {
	boom := errors.New("no address left")
	pod := func(id, name string) Attachment { return Attachment{PodID: id, Namespace: "ns", Name: name} }
	later := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for _, tt := range []struct {
		name string
		do   func(*evidence)
		at   time.Duration // how much later it is looked
		want string        // part of the problem; "" is none
	}{
		{"nothing", func(*evidence) {}, time.Hour, ""},
		{"one hangs", func(e *evidence) { e.begin(pod("1", "a")) }, time.Hour, ""},
		{"two hang", func(e *evidence) { e.begin(pod("1", "a")); e.begin(pod("2", "b")) }, hungAfter + time.Second, "ns/a waits for the plugin slow-1"},
		{"two are young", func(e *evidence) { e.begin(pod("1", "a")); e.begin(pod("2", "b")) }, hungAfter - time.Second, ""},
		{"two hang, a third is served", func(e *evidence) { e.begin(pod("1", "a")); e.begin(pod("2", "b")); e.begin(pod("3", "c"))(nil) }, hungAfter + time.Second, ""},
		{"two tries of one pod hang", func(e *evidence) { e.begin(pod("1", "a")); e.begin(pod("2", "a")) }, hungAfter + time.Second, ""},
		{"one fails again and again", func(e *evidence) {
			for _, id := range []string{"1", "2", "3", "4"} {
				e.begin(pod(id, "a"))(boom)
			}
		}, 0, ""},
		{"three fail", func(e *evidence) {
			e.begin(pod("1", "a"))(boom)
			e.begin(pod("2", "b"))(boom)
			e.begin(pod("3", "c"))(boom)
		}, 0, boom.Error()},
		{"three fail, a minute ago", func(e *evidence) {
			e.begin(pod("1", "a"))(boom)
			e.begin(pod("2", "b"))(boom)
			e.begin(pod("3", "c"))(boom)
		}, evidenceFor + time.Second, ""},
		{"three fail, then one is served", func(e *evidence) {
			e.begin(pod("1", "a"))(boom)
			e.begin(pod("2", "b"))(boom)
			e.begin(pod("3", "c"))(boom)
			e.begin(pod("4", "c"))(nil)
		}, 0, ""},
		{"three are given up", func(e *evidence) {
			for _, id := range []string{"1", "2", "3"} {
				e.begin(pod(id, id))(context.Canceled)
			}
		}, 0, ""},
		{"one hangs, two fail", func(e *evidence) {
			e.begin(pod("1", "a"))
			e.begin(pod("2", "b"))(boom)
			e.begin(pod("3", "c"))(boom)
		}, hungAfter + time.Second, boom.Error()},
		{"three fail, and the network is another", func(e *evidence) {
			e.begin(pod("1", "a"))(boom)
			e.begin(pod("2", "b"))(boom)
			e.begin(pod("3", "c"))(boom)
			e.forget()
		}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e evidence
			tt.do(&e)
			err := e.problem(later(tt.at), func(id string) string { return "slow-" + id })
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%v, want nothing", err)
			case tt.want != "" && (!errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want ErrNotReady with %q", err, tt.want)
			}
		})
	}
}

// TestNotReadyWhenADDFails runs a real plugin that fails until it is replaced.
func TestNotReadyWhenADDFails(t *testing.T) {
	dir := t.TempDir()
	bin := t.TempDir()
	write(t, dir+"/10.conflist", `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "broken"}]}`)
	script(t, bin, "broken", `cat >/dev/null; echo '{"cniVersion": "1.0.0", "code": 100, "msg": "out of luck"}'; exit 1`)
	n := openNetwork(t, Options{ConfDir: dir, BinDirs: []string{bin}})
	conf, err := n.Conf()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := n.Ready(); err != nil {
			t.Fatalf("before %s: %v", name, err)
		}
		a := Attachment{PodID: "pod-" + name, Name: name, Namespace: "ns", NetnsPath: "/proc/self/ns/net", Conf: conf}
		if _, err := n.Attach(limited(t), a); err == nil {
			t.Fatal("attached by a broken plugin")
		}
	}
	if err := n.Ready(); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("ready: %v, want ErrNotReady with the plugin's words", err)
	}
	script(t, bin, "broken", `cat >/dev/null; echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24"}]}'`)
	if _, err := n.Attach(limited(t), Attachment{PodID: "pod-d", Name: "d", Namespace: "ns", NetnsPath: "/proc/self/ns/net", Conf: conf}); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(); err != nil {
		t.Errorf("after one that succeeded: %v", err)
	}
}
