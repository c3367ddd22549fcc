package plugin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/berthd/berth/netns/nftables"
)

// A sharedChain is a chain that all pods use, with the rules that call it.
type sharedChain struct {
	name    string
	rules   [][]string
	from    []string // chains with a rule that calls it
	calls   []string // of that rule, what stands before -j
	atFirst bool     // that rule is the first of its chain
}

// ensure makes what is not there of some chains. It does not look at the rules one by one
// while the kernel has the same as when they were last found complete.
func (t iptables) ensure(ctx context.Context, chains []sharedChain) error {
	id := fmt.Sprint(t.path, chains)
	for try := 1; ; try++ {
		seen, err := t.fingerprint(chains)
		if err != nil {
			return err
		}
		if seen != "" && t.tools.sharedIs(id, seen) {
			return nil
		}
		lines, err := t.missing(ctx, chains)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			t.tools.setShared(id, seen)
			return nil
		}
		err = t.restore(ctx, lines)
		if try >= iptablesTries || ctx.Err() != nil {
			return err // added, and gone again: as for the program, once is enough
		}
	}
}

func (t *tools) sharedIs(id, seen string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shared[id] == seen
}

func (t *tools) setShared(id, seen string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared == nil {
		t.shared = map[string]string{}
	}
	t.shared[id] = seen
}

// fingerprint names the rules that the kernel has in chains and that call them; "" where
// that cannot be asked for cheaply.
func (t iptables) fingerprint(chains []sharedChain) (string, error) {
	if !t.nft {
		return "", nil
	}
	conn, err := nftables.Open()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var seen strings.Builder
	note := func(chain string, only string) error {
		rules, err := conn.Rules(t.table(), chain)
		seen.WriteString(" " + chain)
		for _, r := range rules {
			if only == "" || r.Target == only {
				seen.WriteString(" " + strconv.FormatUint(r.Handle, 10))
			}
		}
		return err
	}
	for _, c := range chains {
		if len(c.rules) > 0 {
			err = errors.Join(err, note(c.name, ""))
		}
		for _, f := range c.from {
			err = errors.Join(err, note(f, c.name))
		}
	}
	return seen.String(), err
}

// missing lists the lines that make what is not there of some chains.
func (t iptables) missing(ctx context.Context, chains []sharedChain) (lines []string, err error) {
	for _, c := range chains {
		has, err := t.hasChain(ctx, c.name)
		if err != nil {
			return nil, err
		}
		if !has {
			lines = append(lines, line("-N", c.name))
		}
		want := func(verb, chain string, rule []string) error {
			has := has
			if has {
				if has, err = t.exists(ctx, append([]string{"-t", nat, "-C", chain}, rule...)...); err != nil {
					return err
				}
			}
			if !has {
				lines = append(lines, line(verb, chain, rule...))
			}
			return nil
		}
		for _, rule := range c.rules {
			if err := want("-A", c.name, rule); err != nil {
				return nil, err
			}
		}
		verb := "-A"
		if c.atFirst {
			verb = "-I"
		}
		for _, f := range c.from {
			if err := want(verb, f, append(append([]string{}, c.calls...), "-j", c.name)); err != nil {
				return nil, err
			}
		}
	}
	return lines, nil
}
