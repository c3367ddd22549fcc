package netns

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A plugin that a dead daemon left is not disturbed: the next one for the same
// container begins when it, and all it has started, has ended. Others do not wait.
func TestPluginOfADeadDaemon(t *testing.T) {
	p := &plugins{locks: t.TempDir(), patience: orphanLimit}
	env := []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=pod1"}
	lock, err := p.lock(limited(t), env)
	if err != nil {
		t.Fatal(err)
	}
	// Its child holds the lock, and the daemon has gone.
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("cat")
	child.Stdin, child.ExtraFiles = in, []*os.File{lock}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	lock.Close()

	if other, err := p.lock(limited(t), []string{"CNI_CONTAINERID=pod2"}); err != nil {
		t.Error(err)
	} else {
		other.Close()
	}
	if f, err := os.Open(filepath.Join(p.locks, "pod1")); err != nil {
		t.Error(err)
	} else {
		if held, err := tryLock(f); !held || err != nil {
			t.Errorf("the lock went with the daemon: %t, %v", held, err)
		}
		f.Close()
	}

	ran := filepath.Join(t.TempDir(), "ran")
	path := script(t, t.TempDir(), "next", "touch "+ran)
	done := make(chan error)
	go func() {
		_, err := p.ExecPlugin(limited(t), path, nil, env)
		done <- err
	}()
	out.Close() // the plugin of before ends
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ran); err != nil {
		t.Error(err)
	}
	// What a plugin leaves running does not hold up the next one.
	behind := script(t, t.TempDir(), "behind", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $! >"+ran)
	if _, err := p.ExecPlugin(limited(t), behind, nil, env); err != nil {
		t.Error(err)
	}
	defer exec.Command("sh", "-c", "kill $(cat "+ran+")").Run()
	if f, err := os.Open(filepath.Join(p.locks, "pod1")); err != nil {
		t.Error(err)
	} else {
		if held, err := tryLock(f); held || err != nil {
			t.Errorf("held by what a plugin has left: %t, %v", held, err)
		}
		f.Close()
	}
	for range 2 {
		if err := p.unlock("pod1"); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.locks, "pod1")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A plugin of a dead daemon that hangs is killed with what it has started; what an earlier one has
// left running is not.
func TestHungPluginOfADeadDaemon(t *testing.T) {
	p := &plugins{locks: t.TempDir(), patience: time.Nanosecond}
	env := []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=pod1"}
	ins := map[*exec.Cmd]io.Closer{}
	start := func(text string) *exec.Cmd {
		lock, err := p.lock(limited(t), env)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if text == "" {
			defer dropLock(lock) // its plugin has ended
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", text+" echo; read _")
		cmd.ExtraFiles = []*os.File{lock}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		ins[cmd] = in
		t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // all of it runs
			t.Fatal(err)
		}
		return cmd
	}
	left := start("")
	young := &plugins{locks: p.locks, patience: p.patience, deadline: time.Hour}
	hung := start("sleep 35901 >/dev/null &")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for what, lock := range map[string]func() (*os.File, error){
		"that has time":               func() (*os.File, error) { return young.lock(limited(t), env) },
		"that nobody waits for again": func() (*os.File, error) { return p.lock(gone, env) },
	} {
		if f, err := lock(); err != nil {
			t.Error(err)
		} else {
			f.Close()
		}
		if age(hung.Process.Pid) == 0 || isZombie(hung.Process.Pid) {
			t.Errorf("a plugin %s was killed", what)
		}
	}
	ran := filepath.Join(t.TempDir(), "ran")
	if _, err := p.ExecPlugin(limited(t), script(t, t.TempDir(), "next", "touch "+ran), nil, env); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ran); err != nil {
		t.Error(err)
	}
	if err := hung.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the plugin that hung: %v", err)
	}
	ins[left].Close()
	if err := left.Wait(); err != nil && err.Error() == "signal: killed" {
		t.Error("what an earlier plugin left was killed")
	}
	f, err := os.Open(p.lockPath("pod1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if held, err := tryLock(f); held || err != nil {
		t.Errorf("still held: %t, %v", held, err)
	}
}

func isZombie(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return strings.Contains(string(status), "State:\tZ")
}
