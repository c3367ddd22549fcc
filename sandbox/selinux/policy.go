package selinux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	goselinux "github.com/opencontainers/selinux/go-selinux"
)

// ErrUnknownLabel is returned for a label that the policy in the kernel does not know.
var ErrUnknownLabel = errors.New("the node's SELinux policy does not know this label")

// A Policy is what the node's policy has for containers: labels, user:role:type:level.
type Policy struct {
	Process    string // of a container
	Privileged string // of one that SELinux does not confine; "" is the runtime's own
	File       string // of what a container may write
	ReadOnly   string // of what all containers may read, such as layers of images

	check func(label string) error // asks the kernel
}

// privilegedType is what policies call the type of containers that they do not confine.
const privilegedType = "spc_t"

// Open reads the policy's labels for containers (lxc_contexts(5)); nil when the kernel
// has no SELinux. A policy without such labels, or one that names types and does not
// define them, as Debian's, is an error that says what to do: containers that nobody
// confines are not what this node's administrator expects.
func Open() (*Policy, error) {
	if !goselinux.GetEnabled() {
		return nil, nil
	}
	return open("/etc/selinux", goselinux.SecurityCheckContext)
}

func open(etc string, check func(string) error) (*Policy, error) {
	name := value(readSmall(filepath.Join(etc, "config")), "SELINUXTYPE")
	file := filepath.Join(etc, name, "contexts/lxc_contexts")
	contexts := readSmall(file)
	p := &Policy{Process: value(contexts, "process"), File: value(contexts, "file"), check: check}
	const advice = "install a policy for containers (berth's is in docs/security.md), or set selinux.enable = false"
	if p.Process == "" || p.File == "" {
		return nil, fmt.Errorf("selinux: %s names no labels for containers; %s", file, advice)
	}
	for _, l := range []string{p.Process, p.File} {
		if err := p.Check(l); err != nil {
			return nil, fmt.Errorf("selinux: %s: %w; %s", file, err, advice)
		}
	}
	if p.ReadOnly = value(contexts, "ro_file"); p.ReadOnly == "" || p.Check(p.ReadOnly) != nil {
		p.ReadOnly = p.File
	}
	parts := strings.SplitN(p.Process, ":", 4)
	if len(parts) < 3 {
		return nil, fmt.Errorf("selinux: %s: %q is no label; %s", file, p.Process, advice)
	}
	parts[2] = privilegedType
	if l := strings.Join(parts, ":"); p.Check(l) == nil {
		p.Privileged = l
	}
	return p, nil
}

// Check asks the kernel whether its policy knows the label: ErrUnknownLabel otherwise.
func (p *Policy) Check(label string) error {
	if err := p.check(label); err != nil {
		return fmt.Errorf("%q: %w: %w", label, ErrUnknownLabel, err)
	}
	return nil
}

// Asking is p with check in the kernel's place, for tests.
func (p Policy) Asking(check func(label string) error) *Policy {
	p.check = check
	return &p
}

// value finds key = "value" in a file of such lines.
func value(text, key string) string {
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(k) == key {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}

// readSmall reads a file of the administrator's, "" when there is none.
func readSmall(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return ""
	}
	return string(data)
}
