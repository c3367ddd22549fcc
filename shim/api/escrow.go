package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// What the descriptors of an EscrowEvent are, beside those of a SessionReply.
const (
	FilePidfd    = "pidfd"     // the container's first process
	FileFerryIn  = "ferry-in"  // the pipe that its terminal's output passes on the way to the log: where it comes in
	FileFerryOut = "ferry-out" // and where it goes out
)

// An EscrowEvent is what a shim says of a container's descriptors on an escrow's connection.
// The daemon keeps them: should the shim die, its successor gets them back, and the
// container never notices.
type EscrowEvent struct {
	ID     string   `json:"id,omitempty"`     // the container
	Files  []string `json:"files,omitempty"`  // what the descriptors that come with it are: all that there are of the container
	Drop   string   `json:"drop,omitempty"`   // this one is closed; nobody may keep it
	Gone   bool     `json:"gone,omitempty"`   // the container's are of no use any more
	Synced bool     `json:"synced,omitempty"` // all that there were at the beginning have come
}

// A Handover is what a shim is told that takes over from another one: which of the
// descriptors that it inherits are whose, by container ID and by what they are. It is the
// content of a file that the shim inherits too.
type Handover struct {
	Tasks map[string]map[string]int `json:"tasks"`

	// States is what is not on record; when another shim has died nobody knows.
	States map[string]TaskHandover `json:"states,omitempty"`
}

// A TaskHandover is what a shim says of a task to the program that takes over from it.
type TaskHandover struct {
	Exit   *ExitRecord `json:"exit,omitempty"`   // how it has ended, also when that could not be put on record
	Killed bool        `json:"killed,omitempty"` // its first process was sent SIGKILL while it lived
}

// maxHandover is more than any handover needs, in bytes.
const maxHandover = 16 << 20

// NewHandover returns the file, from its beginning on. The caller closes it.
func NewHandover(h Handover) (*os.File, error) {
	data, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(data) > maxHandover {
		return nil, fmt.Errorf("handover: %d bytes are more than the %d that are read", len(data), maxHandover)
	}
	f, err := memoryFile("handover")
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadHandover reads one.
func ReadHandover(f *os.File) (Handover, error) {
	var h Handover
	data, err := io.ReadAll(io.LimitReader(f, maxHandover))
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("handover: %w", err)
	}
	return h, nil
}
