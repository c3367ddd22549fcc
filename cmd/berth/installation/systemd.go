package installation

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

//go:embed berthd.service
var serviceText string

//go:embed berth.slice
var sliceText []byte

const unitDir = "/etc/systemd/system"

// hasSystemd tells whether systemd runs the node: of an image, whether it is in it.
func (n *node) hasSystemd() bool {
	if n.here() {
		return n.has("/run/systemd/system")
	}
	return n.has("/lib/systemd/systemd") || n.has("/usr/lib/systemd/systemd")
}

// units are the files for systemd; without it there are none.
func (n *node) units() ([]file, error) {
	if !n.hasSystemd() {
		fmt.Fprintf(n.out, "no systemd: no unit is written; have %s started at boot, again when it ends, and ended alone\n", filepath.Join(n.o.BinDir, "berthd"))
		return nil, nil
	}
	t, err := template.New("berthd.service").Parse(serviceText)
	if err != nil {
		return nil, err
	}
	var service bytes.Buffer
	if err := t.Execute(&service, n.o); err != nil {
		return nil, err
	}
	const drop = "changes belong in a drop-in: systemctl edit berthd"
	return []file{
		{path: unitDir + "/berth.slice", content: sliceText, mode: 0o644, instead: drop},
		{path: unitDir + "/berthd.service", content: service.Bytes(), mode: 0o644, instead: drop},
		{path: unitDir + "/multi-user.target.wants/berthd.service", content: []byte(unitDir + "/berthd.service"), link: true},
	}, nil
}

// begin has systemd read the units, and start the daemon if that is wanted.
func (n *node) begin(ctx context.Context, changed bool) error {
	if !n.here() || !n.hasSystemd() || n.o.DryRun {
		return nil
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	running := systemctl(ctx, "is-active", "--quiet", "berthd.service") == nil
	verb := ""
	switch {
	case !running:
		verb = "start"
	case changed:
		verb = "restart"
	}
	if verb == "" {
		return nil
	}
	if !n.o.Now {
		note := map[string]string{"start": "", "restart": " (containers go on)"}[verb]
		fmt.Fprintf(n.out, "next: systemctl %s berthd%s\n", verb, note)
		return nil
	}
	if err := systemctl(ctx, verb, "berthd.service"); err != nil {
		return fmt.Errorf("%w; journalctl -u berthd says why", err)
	}
	fmt.Fprintf(n.out, "%sed berthd\n", verb)
	return nil
}

// systemctlWithin is longer than a start may take.
const systemctlWithin = 6 * time.Minute

func systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, systemctlWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
