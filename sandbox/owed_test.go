package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func openOwing(t *testing.T, f *fakeNode, dir string) *Node {
	t.Helper()
	n := f.open(t, dir)
	t.Cleanup(n.Close)
	return n
}

// settled waits until the pod's address was given back and all that waited for
// it is gone.
func settled(t *testing.T, n *Node) {
	t.Helper()
	within(t, "nothing is owed", func() bool { return len(n.Pods.Owed()) == 0 })
}

// within polls until ok, for things that only a background loop does.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// While DEL fails the pod is reported stopped and the intent stays; when it
// works again the address goes back without anybody asking.
func TestStopOwesItsAddress(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := openOwing(t, f, dir)
	podID, _ := full(t, n, "p", true)
	f.setFault("Network.Detach", false)
	for range 3 {
		if err := n.Pods.Stop(t.Context(), podID); err != nil {
			t.Fatalf("stop, with a DEL that fails: %v", err)
		}
	}
	p, err := n.Pods.Get(podID)
	if err != nil {
		t.Fatal(err)
	}
	r := p.Record()
	if r.State != NotReady || r.NetConf == nil || len(r.IPs) == 0 || r.Owed == "" {
		t.Errorf("after a stop that owes: state %s, intent %q, addresses %v, why %q", r.State, r.NetConf, r.IPs, r.Owed)
	}
	if owed := n.Pods.Owed(); len(owed) != 1 || owed[0].PodID != podID || owed[0].Hidden || owed[0].Since.IsZero() {
		t.Errorf("Owed = %+v", owed)
	}
	f.mu.Lock()
	if !f.names[podID] {
		t.Error("the namespaces went before DEL could look into them")
	}
	f.mu.Unlock()
	f.setFault("", false)
	settled(t, n)
	if r := p.Record(); r.NetConf != nil || r.IPs != nil || r.Owed != "" || f.names[podID] || f.address[podID] {
		t.Errorf("when it was given back: %+v", r)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A pod that is removed while its address is owed is out of sight, its name is
// free, and the address goes back all the same: also when the daemon was
// restarted, or the node rebooted, in between.
func TestRemoveOwesItsAddress(t *testing.T) {
	for _, how := range []string{"removed at once", "stopped before", "restarted", "rebooted"} {
		t.Run(how, func(t *testing.T) {
			f, dir := newFakeNode(t), t.TempDir()
			n := openOwing(t, f, dir)
			podID, _ := full(t, n, "p", true)
			f.setFault("Network.Detach", false)
			if how == "stopped before" {
				if err := n.Pods.Stop(t.Context(), podID); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := n.Pods.Remove(t.Context(), podID); err != nil {
					t.Fatalf("remove, with a DEL that fails: %v", err)
				}
			}
			if _, err := n.Pods.Get(podID); !errors.Is(err, ErrNotFound) || len(n.Pods.List()) > 0 {
				t.Errorf("the removed pod is still there: %v", err)
			}
			again, _ := full(t, n, "p", false)
			if again == podID {
				t.Fatal("the removed pod came back")
			}
			switch how {
			case "rebooted":
				rewrite(t, n.Pods.opts.podRecord(podID), func(r *PodRecord) { r.BootID = "earlier" })
				f.mu.Lock()
				delete(f.names, podID)
				f.mu.Unlock()
				fallthrough
			case "restarted":
				n.Close()
				f.open(t, dir).Close() // waits for CNI GC
				f.mu.Lock()
				if !f.address[podID] {
					t.Error("CNI GC took an address that a record has")
				}
				f.mu.Unlock()
				n = openOwing(t, f, dir)
				if p, err := n.Pods.Get(again); err != nil || p.Record().State != Ready {
					t.Errorf("the pod that has the name now: %v", err)
				}
				if owed := n.Pods.Owed(); len(owed) != 1 || !owed[0].Hidden {
					t.Errorf("Owed after a restart = %+v", owed)
				}
			}
			f.setFault("", false)
			settled(t, n)
			if _, err := os.Stat(n.Pods.opts.podDir(podID)); !os.IsNotExist(err) {
				t.Errorf("its record: %v", err)
			}
			if p, err := n.Pods.Run(t.Context(), podSpec("p", false)); err != nil || p.ID != again {
				t.Errorf("the name is not the second pod's any more: %s, %v", p.ID, err)
			}
			if err := n.Pods.Remove(t.Context(), again); err != nil {
				t.Error(err)
			}
			assertNothing(t, f, dir)
		})
	}
}

// A creation that can be undone but for its address fails with its cause, is not
// listed, and does not stand in the way of the next one.
func TestCreationOwesItsAddress(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := openOwing(t, f, dir)
	f.setFault("Network", true) // ADD fails after its effect, and so does DEL
	_, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if !errors.Is(err, errFault) || len(n.Pods.List()) > 0 || len(n.Pods.Owed()) != 1 {
		t.Errorf("run = %v; %d listed, %d owed", err, len(n.Pods.List()), len(n.Pods.Owed()))
	}
	f.setFault("", false)
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	settled(t, n)
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A DEL that hangs holds up neither a stop nor a removal.
func TestHangingRelease(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := openOwing(t, f, dir)
	podID, _ := full(t, n, "p", false)
	f.setFault("Network.Detach", false)
	if err := n.Pods.Stop(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	hung, let := f.hangDetach()
	f.setFault("", false)
	<-hung
	if err := n.Pods.Stop(t.Context(), podID); err != nil {
		t.Error(err)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	if len(n.Pods.List()) > 0 {
		t.Error("the removed pod is listed")
	}
	close(let)
	settled(t, n)
	assertNothing(t, f, dir)
}

func TestOwedPause(t *testing.T) {
	for try, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 9: 256 * time.Second, 10: owedPauseMost, 1000: owedPauseMost} {
		for range 20 {
			if got := owedPause(try); got < want*3/4 || got > want*5/4 {
				t.Errorf("pause before try %d is %s, want about %s", try, got, want)
			}
		}
	}
}

// With a record that cannot be read, nobody knows which addresses are in use.
func TestUnreadableRecordKeepsAddresses(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, _ := full(t, n, "p", false)
	n.Close()
	path := n.Pods.opts.podRecord(podID)
	if err := os.Rename(path, path+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // reads fail with EISDIR
		t.Fatal(err)
	}
	f.open(t, dir).Close()
	if !f.address[podID] {
		t.Error("the address of a pod was given back because its record could not be read")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".kept", path); err != nil {
		t.Fatal(err)
	}
	n = openOwing(t, f, dir)
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A pod that was hidden, which could not be written down, is still hidden after a
// restart when another pod has its name, and takes nothing from that one.
func TestHiddenWithoutARecordOfIt(t *testing.T) {
	for range 8 { // records are read in the order of their IDs, which are random
		f, dir := newFakeNode(t), t.TempDir()
		n := openOwing(t, f, dir)
		f.setFault("Network.Detach", false)
		first, err := n.Pods.Run(t.Context(), podSpec("p", false))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Pods.Remove(t.Context(), first.ID); err != nil {
			t.Fatal(err)
		}
		second, err := n.Pods.Run(t.Context(), podSpec("p", false))
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
		rewrite(t, n.Pods.opts.podRecord(first.ID), func(r *PodRecord) { r.State = NotReady })
		n = openOwing(t, f, dir)
		if p, err := n.Pods.Get(second.ID); err != nil || p.Record().State != Ready {
			t.Fatalf("the pod that has the name: %v", err)
		}
		if owed := n.Pods.Owed(); len(owed) != 1 || owed[0].PodID != first.ID || !owed[0].Hidden {
			t.Errorf("Owed = %+v", owed)
		}
		f.setFault("", false)
		settled(t, n)
		if err := n.Pods.Remove(t.Context(), second.ID); err != nil {
			t.Error(err)
		}
		assertNothing(t, f, dir)
	}
}

// A plugin may say a megabyte, and Status tells the words of all of them.
func TestOwedIsShort(t *testing.T) {
	f := newFakeNode(t)
	n := f.open(t, t.TempDir())
	podID, _ := full(t, n, "p", false)
	p, err := n.Pods.Get(podID)
	if err != nil {
		t.Fatal(err)
	}
	n.Pods.noteOwed(t.Context(), p, errors.New(strings.Repeat("ä", 1<<20)))
	if got := p.Record().Owed; len(got) > maxOwed || !utf8.ValidString(got) {
		t.Errorf("%d bytes on record, valid %v; want at most %d", len(got), utf8.ValidString(got), maxOwed)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil { // its mounts are in the folder
		t.Error(err)
	}
	n.Close()
}
