package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/node"
)

// wrapper is put in front of each CNI plugin: it fails before the plugin runs, or after, when
// the file "fail" says so of this plugin and this command.
const wrapper = `#!/bin/sh
read -r order 2>/dev/null <%[1]s/fail || order=
fail() { echo '{"cniVersion": "1.0.0", "code": 11, "msg": "told to fail"}'; exit 1; }
[ "$order" != "%[2]s $CNI_COMMAND before" ] || fail
[ "$order" = "%[2]s $CNI_COMMAND after" ] || exec %[3]s/%[2]s
%[3]s/%[2]s >/dev/null
fail
`

// wrap puts wrappers in front of the world's plugins.
func wrap(t *testing.T) func(*suite) {
	return func(s *suite) {
		dir := filepath.Join(s.world.Dir, "plugins")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
			text := fmt.Sprintf(wrapper, dir, name, s.world.BinDir)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		s.world.BinDir = dir
	}
}

// TestPlugin has each plugin fail before its effect and after it, for a pod's start and for its
// end, with the daemon killed meanwhile and without. The pod's start is refused and succeeds
// when the plugin works again; its end succeeds in any case, and the address is given back when
// the plugin works again.
func TestPlugin(t *testing.T) {
	s := open(t, "", wrap(t))
	s.undisturbed(t)
	s.note(t)
	for _, plugin := range []string{"bridge", "host-local", "portmap"} {
		for _, when := range []string{"before", "after"} {
			for _, kill := range []point{
				{},
				{"berthd", "ran plugin world/plugins/" + plugin, 1},
				{"berthd", "pod: undo network", 1},
			} {
				for _, command := range []string{"ADD", "DEL"} {
					if plugin == "host-local" && command == "DEL" {
						// The bridge plugin has taken the interface by then, from which alone it
						// knows which rules of masquerading to remove, and leaves them for good
						// (containernetworking/plugins, bridge, cmdDel).
						continue
					}
					order := plugin + " " + command + " " + when
					name := order
					if kill.name != "" {
						name += ", killed at " + kill.name
					}
					if !*all && (plugin != "bridge" || strings.HasPrefix(kill.name, "ran")) {
						continue
					}
					t.Run(name, func(t *testing.T) { s.failing(t, order, kill) })
				}
			}
		}
	}
}

var digits = regexp.MustCompile(`\d{6,}`)

// failing lives a life with a plugin that fails by the order.
func (s *suite) failing(t *testing.T, order string, at point) {
	t.Helper()
	if at.name != "" {
		at.name = strings.Replace(at.name, "world/", filepath.Base(s.world.Dir)+"/", 1)
		at.name = digits.ReplaceAllString(at.name, "*")
		s.arm(t, orders{Program: at.program, Point: at.name, Passing: at.passing})
	}
	err := s.fail(t.Context(), t, order)
	s.disarm(t)
	s.plugins(t, "")
	if err != nil {
		t.Error(err)
		s.clear(t)
	}
}

// plugins gives the plugins an order; "" is none.
func (s *suite) plugins(t *testing.T, order string) {
	t.Helper()
	file := filepath.Join(s.world.BinDir, "fail")
	err := os.WriteFile(file, []byte(order+"\n"), 0o644)
	if order == "" {
		err = os.Remove(file)
	}
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func (s *suite) fail(ctx context.Context, t *testing.T, order string) error {
	adds := strings.Contains(order, " ADD ")
	k := &kill{daemon: true}
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	l, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { l.Close() }()
	for _, r := range requests {
		failing := adds && r.name == "RunPodSandbox" || !adds && r.name == "StopPodSandbox"
		if failing {
			s.plugins(t, order)
		}
		err := s.ask(ctx, t, k, l, r)
		if failing && adds {
			if err == nil {
				return errors.New("the pod was made although a plugin failed")
			}
			s.plugins(t, "")
			err = s.ask(ctx, t, k, l, r)
		}
		if err != nil {
			return err
		}
	}
	s.plugins(t, "")
	return errors.Join(s.settled(ctx), l.nothing(ctx), s.node.Stop(), s.asBefore(ctx))
}

// settled waits until no record of a pod is left, seen or not.
func (s *suite) settled(ctx context.Context) error {
	for end := time.Now().Add(node.Patience(30 * time.Second)); ; {
		left, err := os.ReadDir(filepath.Join(s.node.Root, "pods"))
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d pods' addresses are still owed", len(left))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
