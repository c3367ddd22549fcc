// The agent runs in the virtual machine of the tests and runs there what the host
// asks for: one command per TCP connection, on the machine's own network. A
// connection that ends takes its command with it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/berthd/berth/test/vm/machine"
)

func main() {
	for _, line := range []string{
		"ip link set lo up", "ip addr replace " + machine.GuestAddr + "/24 dev eth0", "ip link set eth0 up", "ip route replace default via 10.0.2.2",
	} {
		if err := prepare(line); err != nil {
			log.Print(err)
		}
	}
	// Binaries that are being worked on come this way; a machine without the folder is fine.
	// (busybox: SELinux lets mount(8) of the system mount less than us. modprobe waits
	// for udev, which may be at it: before it is done there is no such device.)
	_ = prepare("mountpoint -q /share || modprobe 9pnet_virtio && busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share")
	// The disk with the programs has no labels.
	_ = prepare("! selinuxenabled || chcon -R -t bin_t /berth/bin /berth/.cache /berth/test")
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", machine.AgentPort))
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn)
	}
}

func prepare(line string) error {
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// serve reads a command, runs it and sends what it prints.
func serve(conn net.Conn) {
	defer conn.Close()
	dec := json.NewDecoder(conn)
	var req machine.Command
	if err := dec.Decode(&req); err != nil || len(req.Args) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // nothing more is said, so the end of this is the connection's
		_, _ = io.Copy(io.Discard, io.MultiReader(dec.Buffered(), conn))
		cancel()
	}()
	out := &frames{enc: json.NewEncoder(conn)}
	cmd := exec.CommandContext(ctx, req.Args[0], req.Args[1:]...)
	cmd.Dir, cmd.Env = req.Dir, append(os.Environ(), append([]string{"HOME=/root"}, req.Env...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ownGroup()
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	err := cmd.Run()
	last := machine.Frame{Done: true}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		last.Exit = max(exit.ExitCode(), 1)
		if !exit.Exited() {
			last.Error = exit.String()
		}
	} else if err != nil {
		last.Exit, last.Error = 127, strings.TrimSpace(err.Error())
	}
	out.send(last)
}

// frames sends output as it comes.
type frames struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (f *frames) Write(p []byte) (int, error) {
	f.send(machine.Frame{Out: p})
	return len(p), nil
}

func (f *frames) send(m machine.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.enc.Encode(m) // the host may have gone
}
