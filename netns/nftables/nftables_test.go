package nftables

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inHostOfItsOwn takes the test's goroutine into a network namespace until the test ends.
func inHostOfItsOwn(t *testing.T) *Conn {
	t.Helper()
	if os.Geteuid() != 0 {
		if testing.Short() {
			t.Skip("needs root")
		}
		t.Fatal("needs root (or -short, which skips it)")
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer home.Close()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Errorf("cannot go back: %v", err)
			return
		}
		runtime.UnlockOSThread()
	})
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

var table = Table{IPv4, "t"}

// TestBatch: rules come and go all at once, and are read as they were written.
func TestBatch(t *testing.T) {
	c := inHostOfItsOwn(t)
	if err := c.Supported(); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(&Batch{}); err != nil {
		t.Error(err)
	}
	if has, err := c.HasChain(table, "c"); has || err != nil {
		t.Error(has, err)
	}
	if rules, err := c.Rules(table, "c"); len(rules) != 0 || err != nil {
		t.Error(rules, err)
	}
	var b Batch
	b.AddTable(table, "a table")
	b.AddChain(table, "c", "a chain")
	b.AddChain(table, "to", "")
	b.AddBase(table, "base", Postrouting)
	long := strings.Repeat("x", 300)
	for _, comment := range []string{"", "one", long} {
		b.AddRule(table, "c", comment, Source(netip.MustParsePrefix("10.1.0.0/16")), Counter(), Jump("to"))
	}
	b.AddRule(table, "to", "", Proto(unix.IPPROTO_TCP, 80), Return())
	if err := c.Commit(&b); err != nil {
		t.Fatal(err)
	}
	rules, err := c.Rules(table, "c")
	if err != nil || len(rules) != 3 {
		t.Fatal(rules, err)
	}
	for i, comment := range []string{"", "one", long[:commentLimit]} {
		if r := rules[i]; r.Handle == 0 || r.Target != "to" || r.Comment != comment {
			t.Errorf("rule %d: %+v", i, r)
		}
	}
	before := ruleset(t)
	for _, want := range []string{`comment "a table"`, `comment "a chain"`, "type nat hook postrouting priority srcnat; policy accept;", "ip saddr 10.1.0.0/16 counter packets 0 bytes 0 jump to", "tcp dport 80 return"} {
		if !strings.Contains(before, want) {
			t.Errorf("no %q in\n%s", want, before)
		}
	}

	var bad Batch
	bad.DeleteRule(table, "c", rules[0].Handle)
	bad.Flush(table, "to")
	bad.DeleteRule(table, "c", 4711)
	bad.AddChain(table, "new", "")
	if err := c.Commit(&bad); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Commit = %v", err)
	}
	if after := ruleset(t); after != before {
		t.Errorf("half of it was done:\n%s", after)
	}
	c2, err := Open() // the first has answers that nobody has read
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	var rest Batch
	rest.DeleteRule(table, "c", rules[1].Handle)
	rest.Flush(table, "c")
	rest.Flush(table, "to")
	rest.DeleteChain(table, "to")
	if err := c2.Commit(&rest); err != nil {
		t.Error(err)
	}
	for _, chain := range []string{"c", "to"} {
		if has, err := c2.HasChain(table, chain); has != (chain == "c") || err != nil {
			t.Errorf("%s: %t, %v", chain, has, err)
		}
	}
}

// TestManyRules reads a chain that does not fit in one answer.
func TestManyRules(t *testing.T) {
	c := inHostOfItsOwn(t)
	var b Batch
	b.AddTable(table, "")
	b.AddChain(table, "c", "")
	b.AddChain(table, "to", "")
	const n = 2000
	for range n {
		b.AddRule(table, "c", "a pod", Source(netip.MustParsePrefix("10.1.2.3/32")), Counter(), Jump("to"))
	}
	if err := c.Commit(&b); err != nil {
		t.Fatal(err)
	}
	if rules, err := c.Rules(table, "c"); len(rules) != n || err != nil {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}

// FuzzReadRule: whatever somebody's rule has in it is read without harm.
func FuzzReadRule(f *testing.F) {
	var b Batch
	b.AddRule(table, "c", "a comment", Source(netip.MustParsePrefix("10.1.0.0/16")), Counter(), Jump("to"))
	f.Add(b.data[20:])
	f.Fuzz(func(t *testing.T, data []byte) {
		r, chain := readRule(data)
		if len(r.Comment)+len(r.Target)+len(chain) > 3*len(data) {
			t.Error("more than there was")
		}
	})
}
