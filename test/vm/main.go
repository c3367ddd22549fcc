package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/test/vm/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), machine.StopSignals()...)
	defer stop()
	err := command(ctx, os.Args[1:])
	if exit := (*machine.ExitError)(nil); errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(exit.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("run [-short] [SUITE...] | suites | up NAME [PROFILE] | exec NAME COMMAND... | push NAME [PKG...] | down NAME")

func command(ctx context.Context, args []string) error {
	repo, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	if _, err := os.Stat("test/vm/image.sh"); err != nil {
		return errors.New("run it from the repository's root")
	}
	if len(args) == 0 {
		return errUsage
	}
	h := host{repo: repo, cache: filepath.Join(repo, ".cache", "vm")}
	name, rest := "", []string{}
	if len(args) > 1 {
		name, rest = args[1], args[2:]
	}
	switch verb := args[0]; {
	case verb == "run":
		return h.runCommand(ctx, args[1:])
	case verb == "suites":
		for _, s := range suites() {
			mark := ""
			if s.byName {
				mark = "+ "
			}
			fmt.Printf("%-20s %-9s %-15s %s%s\n", s.name, s.profile, s.pkg, mark, s.doc)
		}
		return nil
	case name == "":
		return errUsage
	case verb == "up":
		return h.up(ctx, name, rest)
	case verb == "exec" && len(rest) > 0:
		return machine.At(h.cache, name).Run(ctx, os.Stdout, machine.Command{Args: rest, Dir: "/berth"})
	case verb == "push":
		return h.push(ctx, name, rest)
	case verb == "down":
		return machine.At(h.cache, name).Down()
	}
	return errUsage
}

func (h host) runCommand(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	short := fs.Bool("short", false, "only what .ci/run runs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	total, err := h.run(ctx, *short, fs.Args())
	if data, jsonErr := json.Marshal(total); jsonErr == nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(h.cache, "result.json"), data, 0o644))
	}
	line := fmt.Sprintf("%d passed, %d failed, %d skipped", total.Passed, total.Failed, total.Skipped)
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	fmt.Println(line)
	if total.Failed > 0 {
		return errors.New("not all passed; .cache/vm/logs has what they printed")
	}
	return nil
}

// up boots a machine that stays.
func (h host) up(ctx context.Context, name string, args []string) error {
	profile := "apparmor"
	if len(args) > 0 {
		profile = args[0]
	}
	p, ok := machine.Profiles[profile]
	if !ok {
		return fmt.Errorf("no profile %q", profile)
	}
	if err := h.image(ctx); err != nil {
		return err
	}
	stage, err := h.stage(ctx, packagesOf(suites()))
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	data := filepath.Join(h.cache, "data-"+name+".img")
	if err := h.disk(ctx, stage, data); err != nil {
		return err
	}
	defer os.Remove(data) // qemu has it open
	_, err = machine.Start(ctx, h.cache, name, data, p)
	return err
}

// push brings new binaries and tests into a machine.
func (h host) push(ctx context.Context, name string, pkgs []string) error {
	stage, err := h.stage(ctx, pkgs)
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	m := machine.At(h.cache, name)
	pack := filepath.Join(stage, "push.tar")
	out, err := exec.CommandContext(ctx, "tar", "-C", stage, "--exclude=./push.tar", "--exclude=./.cache", "-cf", pack, ".").CombinedOutput()
	if err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	if err := m.Share(ctx, pack); err != nil {
		return err
	}
	text, err := m.Output(ctx, "tar -C /berth -xf /share/push.tar && rm /share/push.tar")
	fmt.Print(text)
	return err
}

// commandLine runs a program of the host, with its output in the error.
func commandLine(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
