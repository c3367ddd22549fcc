package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/netns/child"
	"github.com/berthd/berth/netns/nftables"
)

// nat is the only table of iptables that the plugins write to.
const nat = "nat"

// Programs of iptables say on how many bytes of output they are listened to, and a race with
// somebody else's rules is tried again so often.
const (
	iptablesOutputLimit = 4 << 20
	iptablesTries       = 5
)

// tools remembers the node's iptables programs until their files are others, and the rules
// that were found. Its zero value is ready.
type tools struct {
	mu     sync.Mutex
	known  map[string]tool   // by path
	shared map[string]string // rules that pods share, to what the kernel said when all were there
}

// A tool is an iptables program.
type tool struct {
	file   fileID
	nft    bool // its rules are nf_tables'
	usable bool // it has been seen to read the table filter
}

// iptables is a node's iptables of one family, in the network namespace of the calling thread.
type iptables struct {
	path   string
	nft    bool
	family nftables.Family
	lock   *os.File // inherited by what is run; nil is none
	tools  *tools
}

// find looks for the program of a family. One that is not there is an exec.ErrNotFound.
func (t *tools) find(ctx context.Context, f nftables.Family, lock *os.File) (iptables, error) {
	name := "iptables"
	if f == nftables.IPv6 {
		name = "ip6tables"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return iptables{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return iptables{}, err
	}
	ipt := iptables{path: path, family: f, lock: lock, tools: t}
	id := idOf(fi)
	t.mu.Lock()
	known, ok := t.known[path]
	t.mu.Unlock()
	if !ok || known.file != id {
		said, err := ipt.run(ctx, path, nil, "--version")
		if err != nil {
			return iptables{}, err
		}
		known = tool{file: id, nft: strings.Contains(said, "(nf_tables)")}
		t.remember(path, known)
	}
	ipt.nft = known.nft
	return ipt, nil
}

func (t *tools) remember(path string, tl tool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = map[string]tool{}
	}
	t.known[path] = tl
}

// backend is the one that the plugins choose where the configuration says nothing: iptables,
// unless it does not work here and nf_tables does.
func (t *tools) backend(ctx context.Context, lock *os.File) (string, error) {
	if t.usable(ctx, nftables.IPv4, lock) {
		return "iptables", nil
	}
	if err := ended(ctx, "choosing a backend"); err != nil {
		return "", err
	}
	conn, err := nftables.Open()
	if err != nil {
		return "iptables", nil
	}
	defer conn.Close()
	if conn.Supported() != nil {
		return "iptables", nil
	}
	return "nftables", nil
}

// usable tells whether iptables can be used at all for a family.
func (t *tools) usable(ctx context.Context, f nftables.Family, lock *os.File) bool {
	ipt, err := t.find(ctx, f, lock)
	if err != nil {
		return false
	}
	t.mu.Lock()
	known := t.known[ipt.path]
	t.mu.Unlock()
	if known.usable {
		return true
	}
	_, err = ipt.exists(ctx, "-t", "filter", "-S", "INPUT", "1")
	if err != nil {
		return false
	}
	known.usable = true
	t.remember(ipt.path, known)
	return true
}

// table is the table nat, where its rules are nf_tables'.
func (t iptables) table() nftables.Table { return nftables.Table{Family: t.family, Name: nat} }

// run runs a program of iptables' and returns what it says.
func (t iptables) run(ctx context.Context, path string, input []byte, args ...string) (string, error) {
	stdout, stderr, err := child.Program{Path: path, Args: args, Input: input, Limit: iptablesOutputLimit, Lock: t.lock}.Run(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(stderr))
	}
	return string(stdout), nil
}

// exists runs iptables for an answer of yes or no.
func (t iptables) exists(ctx context.Context, args ...string) (bool, error) {
	_, err := t.run(ctx, t.path, nil, append([]string{"-w"}, args...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}

// hasNAT tells whether the family has the table nat, where somebody may have rules.
func (t iptables) hasNAT(ctx context.Context) bool {
	_, err := t.hasChain(ctx, "OUTPUT")
	return err == nil || ctx.Err() != nil
}

// hasChain tells whether the table nat has a chain.
func (t iptables) hasChain(ctx context.Context, chain string) (bool, error) {
	if !t.nft {
		return t.exists(ctx, "-t", nat, "-S", chain, "1")
	}
	conn, err := nftables.Open()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	return conn.HasChain(t.table(), chain)
}

// restore makes changes of the table nat, all or none: lines of iptables-restore(8).
func (t iptables) restore(ctx context.Context, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	for _, l := range lines {
		if strings.ContainsAny(l, "\n\x00") {
			return fmt.Errorf("iptables rule %q: not one line", l)
		}
	}
	crashpoint.At("restore", nat)
	input := "*" + nat + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	_, err := t.run(ctx, t.path+"-restore", []byte(input), "--noflush", "-w")
	crashpoint.At("restored", nat)
	return err
}

// line is a rule as iptables-restore reads it.
func line(verb, chain string, rule ...string) string {
	words := []string{verb, chain}
	for _, w := range rule {
		if strings.ContainsAny(w, " \t\"'\\") || w == "" {
			w = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"`
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// remove deletes a chain, and the rules in the chains from that call it. What is not
// there is fine.
func (t iptables) remove(ctx context.Context, chain string, from ...string) error {
	if t.nft {
		return nftables.Change(func(conn *nftables.Conn, b *nftables.Batch) error {
			err := unlink(conn, b, t.table(), chain, from)
			crashpoint.At("remove chain", nat)
			return err
		})
	}
	for try := 1; ; try++ {
		changed, err := t.removeByRestore(ctx, chain, from)
		if err == nil || !changed || try == iptablesTries || ctx.Err() != nil {
			return err
		}
	}
}

// unlink has a batch delete a chain and what calls it in from.
func unlink(conn *nftables.Conn, b *nftables.Batch, table nftables.Table, chain string, from []string) error {
	for _, f := range from {
		rules, err := conn.Rules(table, f)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Target == chain {
				b.DeleteRule(table, f, r.Handle)
			}
		}
	}
	has, err := conn.HasChain(table, chain)
	if err == nil && has {
		b.Flush(table, chain)
		b.DeleteChain(table, chain)
	}
	return err
}

// removeByRestore does it by iptables' programs; changed tells that a failure may be somebody
// else's doing.
func (t iptables) removeByRestore(ctx context.Context, chain string, from []string) (changed bool, err error) {
	has, err := t.hasChain(ctx, chain)
	if err != nil || !has {
		return false, err
	}
	var lines []string
	for _, f := range from {
		if has, err := t.hasChain(ctx, f); err != nil {
			return false, err
		} else if !has {
			continue
		}
		said, err := t.run(ctx, t.path, nil, "-w", "-t", nat, "-S", f)
		if err != nil {
			return false, err
		}
		for l := range strings.Lines(said) {
			l = strings.TrimSpace(l)
			if rule, ok := strings.CutPrefix(l, "-A "+f+" "); ok && strings.HasSuffix(" "+rule, " -j "+chain) {
				lines = append(lines, "-D "+f+" "+rule)
			}
		}
	}
	lines = append(lines, line("-F", chain), line("-X", chain))
	err = t.restore(ctx, lines)
	return err != nil, err
}
