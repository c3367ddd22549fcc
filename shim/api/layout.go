package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/berthd/berth/crashpoint"
)

// Folders of the state directory.
const (
	shimsDir = "shims"
	runcDir  = "runc"
	tasksDir = "tasks"
)

// ShimsDir is where each shim has a folder of its own.
func ShimsDir(state string) string { return filepath.Join(state, shimsDir) }

// ShimDir is the folder of one shim.
func ShimDir(state, shimID string) string { return filepath.Join(state, shimsDir, shimID) }

// RuncDir is where a container's runtime keeps its state, by container ID:
// libcontainer, or the program of another runtime.
func RuncDir(state string) string { return filepath.Join(state, runcDir) }

// SocketPath is the socket in a shim's folder.
func SocketPath(shimDir string) string { return filepath.Join(shimDir, "shim.sock") }

// SessionPath is the socket for sessions in a shim's folder: see session.go.
func SessionPath(shimDir string) string { return filepath.Join(shimDir, "io.sock") }

// LogPath is the shim's own log in its folder.
func LogPath(shimDir string) string { return filepath.Join(shimDir, "log") }

// A Spawned is the process of a shim, as who has started it puts it on record in the shim's folder.
// It stays the same process when the shim executes another program.
type Spawned struct {
	Pid   int    `json:"pid"`
	Began uint64 `json:"began"` // as in a TaskRecord
}

func spawnedPath(shimDir string) string { return filepath.Join(shimDir, "process.json") }

// ReadSpawned reads the record of a shim's process.
func ReadSpawned(shimDir string) (s Spawned, err error) {
	err = readJSON(spawnedPath(shimDir), &s)
	return s, err
}

// WriteSpawned replaces it.
func WriteSpawned(shimDir string, s Spawned) error { return WriteRecord(spawnedPath(shimDir), s) }

// TaskDir is where a shim writes down which tasks it has.
func TaskDir(shimDir string) string { return filepath.Join(shimDir, tasksDir) }

// TaskPath is the record of one task in a shim's folder.
func TaskPath(shimDir, id string) string { return filepath.Join(shimDir, tasksDir, id+".json") }

// OOMScoreAdj is the annotation of Task.Update that carries the oom_score_adj that
// the container's processes are to have, in decimal: LinuxResources has none.
const OOMScoreAdj = "berth.oom_score_adj"

// ExitPath is the exit record in a bundle.
func ExitPath(bundle string) string { return filepath.Join(bundle, "exit.json") }

// An ExitRecord is the file a shim writes into the bundle when the container's
// process has ended. It is there before Task.Wait answers.
type ExitRecord struct {
	Code      int32     `json:"code"` // 128 + signal for a process that was killed
	At        time.Time `json:"at"`
	OOMKilled bool      `json:"oomKilled"`
	Pid       int       `json:"pid"`
	Version   int       `json:"version,omitempty"` // RecordVersion; 0 is 1
}

// A TaskRecord says that a shim set out to create a task, and what a successor of the shim
// needs to take the task over. It is written before anything of the task exists, once more
// when its process does, and removed when nothing of it does.
type TaskRecord struct {
	Version       int    `json:"version,omitempty"` // RecordVersion; 0 is 1
	ID            string `json:"id"`
	PodID         string `json:"podID"`
	Bundle        string `json:"bundle"`
	SystemdCgroup bool   `json:"systemdCgroup,omitempty"`
	Runtime       string `json:"runtime,omitempty"` // the program that runs it; "" is the shim
	LogPath       string `json:"logPath,omitempty"`
	LogRate       int64  `json:"logRate,omitempty"` // as in CreateOptions, like LogBurst
	LogBurst      int64  `json:"logBurst,omitempty"`
	Terminal      bool   `json:"terminal,omitempty"`
	Stdin         bool   `json:"stdin,omitempty"`
	StdinOnce     bool   `json:"stdinOnce,omitempty"`

	Pid   int       `json:"pid,omitempty"`   // of its first process; 0: it never came so far
	Began uint64    `json:"began,omitempty"` // when that process began, in clock ticks since the boot
	Pipes [2]uint64 `json:"pipes,omitzero"`  // inodes of the pipes of stdout and stderr

	// The counters of kills for want of memory that are not the task's end.
	OOMBefore uint64 `json:"oomBefore,omitempty"`
	OOMAbove  uint64 `json:"oomAbove,omitempty"`
}

// ReadExit reads the exit record of a bundle. An error for which
// errors.Is(err, os.ErrNotExist) holds means that there is none.
func ReadExit(bundle string) (ExitRecord, error) {
	var r ExitRecord
	err := readJSON(ExitPath(bundle), &r)
	return r, err
}

// ReadTask reads a shim's record of one task.
func ReadTask(path string) (TaskRecord, error) {
	var r TaskRecord
	err := readJSON(path, &r)
	return r, err
}

// WriteRecord replaces the file at path with v as JSON. A reader never sees half
// of it; after a power cut it may be gone, like everything in the state
// directory.
func WriteRecord(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	crashpoint.At("write", path)
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	crashpoint.At("half written", path)
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	crashpoint.At("written", path)
	return nil
}

// maxRecord is more than any record needs, in bytes.
const maxRecord = 64 << 10

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
