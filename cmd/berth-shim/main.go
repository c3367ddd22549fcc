// Command berth-shim keeps containers alive. berthd starts it as "serve"; nobody
// else needs to call it.
//
//	berth-shim serve --state DIR --dir DIR   answers on the socket that is file descriptor 3;
//	                 --handover FD           and goes on where another one has stopped
//	berth-shim delete --state DIR --id ID    takes away a container whose shim is dead
//	berth-shim init                          the first steps of a container's process (libcontainer)
//	berth-shim filter                        compiles a seccomp profile, for "serve"
//	berth-shim pause, or called "pause"      the holder of a shared PID namespace
//	berth-shim version                       the release; --json: and the protocols that it speaks
//
// Go's runtime need not look for the cgroup's CPU limit when it starts and every second:
// GOMAXPROCS is set for the first steps, and a shim has little to do at once.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper"
	"github.com/berthd/berth/shim/keeper/container"
	"k8s.io/klog/v2"
)

// version is set by the linker.
var version = "dev"

// deleteLimit is how long "delete" waits for processes to die.
const deleteLimit = 30 * time.Second

// A container's first steps keep to the process's first thread, and so does main when an
// init function asks for it. Another thread that executes the command would leave the first
// one dead until the kernel has given it the process's name: for that moment the container
// looks as if it had ended.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		runtime.LockOSThread()
	}
	runtime.MemProfileRate = 0 // nobody reads that profile, and its table takes up to 1.4 MB
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: berth-shim serve|delete|pause|version"))
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "init":
		container.Init()
	case "serve":
		fail(serve(context.Background(), args))
	case "delete":
		fail(remove(context.Background(), args))
	case "filter":
		fail(container.CompileFilter())
	case "pause":
		pause()
	case "version":
		fail(tellVersion(args))
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

// tellVersion prints what this program is. One of an earlier release knows no --json.
func tellVersion(args []string) error {
	if !slices.Contains(args, "--json") {
		fmt.Println("berth-shim", version)
		return nil
	}
	return json.NewEncoder(os.Stdout).Encode(api.ProgramOf(version))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "berth-shim:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	klog.InitFlags(fs)
	var o keeper.Options
	fs.StringVar(&o.State, "state", "/run/berth", "the daemon's state directory")
	fs.StringVar(&o.Dir, "dir", "", "this shim's folder in it")
	handover := fs.Int("handover", 0, "the file descriptor that says what comes of a predecessor; 0: there is none")
	if err := fs.Parse(args); err != nil {
		return err
	}
	// Containers' first steps need one thread; libcontainer hands this on to them.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return err
	}
	// A shim is idle nearly always and its heap is small: collect early.
	debug.SetGCPercent(25)
	if err := keeper.KeepDescriptors(); err != nil { // they stay open for a program that takes over
		return err
	}
	o.Listener = os.NewFile(listenerFD, "listener")
	ln, err := net.FileListener(o.Listener)
	if err != nil {
		return fmt.Errorf("file descriptor %d is not a listening socket: %w", listenerFD, err)
	}
	o.Version, o.Args = version, heirArgs(fs)
	k, err := keeper.New(ctx, o)
	if err != nil {
		return err
	}
	if *handover != 0 {
		if err := resume(ctx, k, *handover); err != nil {
			return err
		}
	}
	return k.Serve(ctx, ln)
}

// listenerFD is the listening socket.
const listenerFD = 3

// heirArgs are the arguments of a program that takes over from this one, without its handover.
func heirArgs(fs *flag.FlagSet) []string {
	args := []string{"serve"}
	fs.Visit(func(f *flag.Flag) {
		if f.Name != "handover" {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return args
}

// resume takes over what a predecessor had.
func resume(ctx context.Context, k *keeper.Keeper, fd int) error {
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close()
	h, err := api.ReadHandover(f)
	if err != nil {
		return err
	}
	return k.Resume(ctx, h)
}

func remove(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("delete", flag.ContinueOnError)
	var rec api.TaskRecord
	state := fs.String("state", "/run/berth", "the daemon's state directory")
	fs.StringVar(&rec.ID, "id", "", "the container")
	fs.StringVar(&rec.Bundle, "bundle", "", "its bundle")
	fs.BoolVar(&rec.SystemdCgroup, "systemd-cgroup", false, "its cgroups are systemd's")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	return keeper.Delete(ctx, *state, rec)
}
