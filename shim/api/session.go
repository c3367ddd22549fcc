package api

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// A session is one client of a container's streams: a command run for it, or an
// attachment to the container's own. It has a connection of its own to the
// session socket of the shim, and lasts as long as that. The daemon sends a
// SessionRequest; the shim answers with a SessionReply and the descriptors that
// it names, over which the bytes flow without either side copying them for the
// other. Then each side says what there is to say in SessionEvents.

// SessionRequest opens a session.
type SessionRequest struct {
	ID      string          `json:"id"`                // the container
	Process json.RawMessage `json:"process,omitempty"` // a runtime-spec Process: a command. Without it: attach
	Stdin   bool            `json:"stdin,omitempty"`
	Stdout  bool            `json:"stdout,omitempty"`
	Stderr  bool            `json:"stderr,omitempty"`

	// Escrow has the shim send duplicates of its containers' descriptors, as
	// EscrowEvents, for as long as the connection lasts. Nothing else is asked for then.
	Escrow bool `json:"escrow,omitempty"`
}

// SessionReply answers a SessionRequest.
type SessionReply struct {
	Code  uint32   `json:"code,omitempty"` // a gRPC code; 0: it is open
	Error string   `json:"error,omitempty"`
	Files []string `json:"files,omitempty"` // what the descriptors that come with it are, in order
}

// What a descriptor of a SessionReply is. A command's terminal is read, written
// and sized; a container's is written and sized, and what it says comes by
// FileStdout.
const (
	FileStdin    = "stdin"
	FileStdout   = "stdout"
	FileStderr   = "stderr"
	FileTerminal = "terminal"
)

// SessionEvent is what either side says once a session is open.
type SessionEvent struct {
	Exited bool  `json:"exited,omitempty"` // the shim's last word: the command, or the container, has ended
	Code   int32 `json:"code,omitempty"`   // with Exited

	// Ended and Status, on an escrow's connection from the daemon: that container's first
	// process was our child, because its shim had died, and this is how it ended, as wait4(2)
	// says it.
	Ended  string `json:"ended,omitempty"`
	Status uint32 `json:"status,omitempty"`

	// StdinEnded, from the daemon: its client will send nothing more. From the
	// shim: the container takes nothing more.
	StdinEnded bool `json:"stdinEnded,omitempty"`
}

// maxFrame is more than any message needs, in bytes: a Process has an
// environment and arguments of 6 MiB at the very most.
const maxFrame = 16 << 20

// errFrame is returned for what cannot be a message.
var errFrame = errors.New("session: not a message")

// A SessionConn moves the messages of a session, each as its length and JSON. One
// goroutine may receive while another sends.
type SessionConn struct {
	conn  *net.UnixConn
	files []*os.File // received and not yet taken
}

// NewSessionConn uses conn, and closes it with Close.
func NewSessionConn(conn *net.UnixConn) *SessionConn { return &SessionConn{conn: conn} }

// Conn is the connection itself, for its deadlines and its peer.
func (c *SessionConn) Conn() *net.UnixConn { return c.conn }

// Send sends v, with files when there are any: the receiver gets descriptors of
// its own.
func (c *SessionConn) Send(v any, files ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxFrame {
		return fmt.Errorf("session: a message of %d bytes, more than %d: %w", len(data), maxFrame, errFrame)
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
	if len(files) == 0 {
		_, err = c.conn.Write(frame)
		return err
	}
	n, err := sendWith(c.conn, frame, files)
	if err == nil && n < len(frame) {
		_, err = c.conn.Write(frame[n:])
	}
	return err
}

// Receive waits for the next message. io.EOF is the other side's end.
func (c *SessionConn) Receive(v any) error {
	var size [4]byte
	if _, err := io.ReadFull(receiver{c}, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return errFrame
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(receiver{c}, data); err != nil {
		return fmt.Errorf("session: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return nil
}

// TakeFiles hands over the descriptors that have come. They are the caller's.
func (c *SessionConn) TakeFiles() []*os.File {
	files := c.files
	c.files = nil
	return files
}

// Close ends the session. Descriptors that were taken stay open.
func (c *SessionConn) Close() error {
	return c.conn.Close()
}

// receiver reads bytes and keeps the descriptors that come with them.
type receiver struct{ c *SessionConn }

func (r receiver) Read(p []byte) (int, error) {
	n, files, err := receiveWith(r.c.conn, p)
	r.c.files = append(r.c.files, files...)
	if err == nil && n == 0 && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}
