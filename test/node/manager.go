package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// A Manager is to a daemon what systemd is with FileDescriptorStoreMax= in its unit: it keeps
// the descriptors that the daemon hands over, and gives them to the next one. It is safe for
// concurrent use.
type Manager struct {
	conn *net.UnixConn
	done chan struct{} // closed when nothing is heard any more

	mu   sync.Mutex
	kept []keptFile
}

type keptFile struct {
	name string
	file *os.File
}

// NewManager listens in dir. The caller closes it.
func NewManager(dir string) (*Manager, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	m := &Manager{conn: conn, done: make(chan struct{})}
	go m.listen()
	return m, nil
}

// Close lets go of all that is kept.
func (m *Manager) Close() error {
	err := m.conn.Close()
	<-m.done
	return errors.Join(err, m.Forget())
}

// Forget lets go of all that is kept, as systemd does when the service is stopped.
func (m *Manager) Forget() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, k := range m.kept {
		errs = append(errs, k.file.Close())
	}
	m.kept = nil
	return errors.Join(errs...)
}

// Kept are the names of what is kept, sorted.
func (m *Manager) Kept() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, k := range m.kept {
		names = append(names, k.name)
	}
	slices.Sort(names)
	return names
}

// prepare has a command started as systemd starts it.
func (m *Manager) prepare(cmd *exec.Cmd) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.conn.LocalAddr().String())
	if len(m.kept) == 0 {
		return
	}
	var names []string
	for _, k := range m.kept {
		names = append(names, k.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, k.file)
	}
	cmd.Env = append(cmd.Env, fmt.Sprint("LISTEN_FDS=", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
}

func (m *Manager) listen() {
	defer close(m.done)
	text, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, o, _, _, err := m.conn.ReadMsgUnix(text, oob)
		if err != nil {
			return // closed
		}
		files, err := filesOf(oob[:o])
		if err != nil {
			continue
		}
		m.hear(strings.Split(string(text[:n]), "\n"), files)
	}
}

// hear does what a message says. What comes with it and is not to be kept is closed, also for
// BARRIER=1.
func (m *Manager) hear(lines []string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := "stored"
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "FDNAME="); ok {
			name = v
		}
	}
	if slices.Contains(lines, "FDSTORE=1") {
		for _, f := range files {
			m.kept = append(m.kept, keptFile{name, f})
		}
		return
	}
	if slices.Contains(lines, "FDSTOREREMOVE=1") {
		m.kept = slices.DeleteFunc(m.kept, func(k keptFile) bool {
			if k.name == name {
				files = append(files, k.file)
			}
			return k.name == name
		})
	}
	for _, f := range files {
		f.Close()
	}
}
