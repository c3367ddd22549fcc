// Package child runs the programs of a network that may hang: CNI plugins, iptables. It returns when
// the program has ended or ctx has, whatever the program has started meanwhile, and then nothing of its process
// group runs. When this process dies the program works on; who wants to know whether it still does hands it
// a lock. It keeps nothing, so it may be called again after a crash.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// pipeLimit is how long what a program has started may hold its output after it has ended.
const pipeLimit = 2 * time.Second

// A Program is one run of a program.
type Program struct {
	Path  string
	Args  []string // without the program's name
	Env   []string // nil: this process's
	Input []byte
	Limit int      // bytes of its stdout, and of its stderr, that are kept
	Lock  *os.File // which it inherits; nil is none
}

// Run runs it once. The error is ctx's cause when ctx has ended, or else os/exec's.
func (p Program) Run(ctx context.Context) (stdout, stderr []byte, err error) {
	out, said := capped{limit: p.Limit}, capped{limit: p.Limit}
	cmd := exec.CommandContext(ctx, p.Path, p.Args...)
	cmd.Env, cmd.Stdin = p.Env, bytes.NewReader(p.Input)
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = pipeLimit
	if p.Lock != nil {
		cmd.ExtraFiles = []*os.File{p.Lock}
	}
	inOwnGroup(cmd)
	switch err = cmd.Run(); {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("no answer, killed: %w", context.Cause(ctx))
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil
	}
	return out.kept.Bytes(), said.kept.Bytes(), err
}

// capped keeps the first bytes written to it. It is no bytes.Buffer: io.Copy would have that read all.
type capped struct {
	kept  bytes.Buffer
	limit int
}

// Write implements io.Writer.
func (c *capped) Write(p []byte) (int, error) {
	if room := c.limit - c.kept.Len(); room > 0 {
		c.kept.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
