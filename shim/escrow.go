package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"k8s.io/klog/v2"
)

// An escrow is the duplicates that we keep of a shim's containers' descriptors, by container
// ID and by what they are. While one of us has them, nobody who writes into them or waits for
// them notices that the other has died. The zero value has none.
type escrow struct {
	mu    sync.Mutex
	conn  *api.SessionConn
	ended chan struct{} // closed when conn has ended and all that came over it is here
	kept  map[string]map[string]*os.File
	told  map[string]uint32 // how processes have ended, by container: told again to who takes over
}

// keep has a shim that answers send its descriptors. One of an earlier release has no such
// thing: when it dies, its containers do.
func (s *Shims) keep(ctx context.Context, p *process) {
	if err := p.escrow.open(ctx, p.dir); err != nil {
		klog.ErrorS(err, "A shim's death would stop its containers: it does not hand out their descriptors", "shim", p.id)
	}
}

// open connects, and takes what comes in the background. What a former shim sent stays until
// this one's has come.
func (e *escrow) open(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, sessionLimit)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", api.SessionPath(dir))
	if err != nil {
		return err
	}
	conn := api.NewSessionConn(c.(*net.UnixConn))
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var reply api.SessionReply
	if err = conn.Send(api.SessionRequest{Escrow: true}); err == nil {
		err = conn.Receive(&reply)
	}
	if err == nil && reply.Code != 0 {
		err = fmt.Errorf("%s: %w", reply.Error, ErrUnimplemented)
	}
	if err != nil {
		conn.Close()
		return err
	}
	ended := make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil { // of a shim that has executed another version of itself, say
		e.conn.Close()
	}
	if e.kept == nil {
		e.kept = map[string]map[string]*os.File{}
	}
	e.conn, e.ended = conn, ended
	for id, status := range e.told {
		_ = conn.Send(api.SessionEvent{Ended: id, Status: status})
	}
	go e.listen(conn, ended)
	return nil
}

// listen takes what comes until the shim ends, or close.
func (e *escrow) listen(conn *api.SessionConn, ended chan struct{}) {
	defer close(ended)
	defer conn.Close()
	came := map[string]bool{} // until all is
	for {
		var event api.EscrowEvent
		err := conn.Receive(&event)
		files := conn.TakeFiles()
		if err != nil {
			closeFiles(files)
			return
		}
		e.take(event, files)
		switch {
		case event.Synced:
			e.dropOthers(came)
			came = nil
		case came != nil:
			came[event.ID] = true
		}
	}
}

// take does what an event says. files are its own.
func (e *escrow) take(event api.EscrowEvent, files []*os.File) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case event.Gone:
		e.dropLocked(event.ID)
	case event.Drop != "":
		if f := e.kept[event.ID][event.Drop]; f != nil {
			f.Close()
			delete(e.kept[event.ID], event.Drop)
		}
	case len(files) > 0 && len(files) == len(event.Files):
		e.dropLocked(event.ID)
		e.kept[event.ID] = map[string]*os.File{}
		for i, name := range event.Files {
			e.kept[event.ID][name] = files[i]
		}
		return
	}
	closeFiles(files)
}

func (e *escrow) dropLocked(id string) {
	for _, f := range e.kept[id] {
		f.Close()
	}
	delete(e.kept, id)
	delete(e.told, id)
}

// tell tells the shim how a container's process has ended. A shim that does not hear it has
// died as well, or asks the kernel.
func (e *escrow) tell(id string, status uint32) {
	e.mu.Lock()
	conn := e.conn
	if e.told == nil {
		e.told = map[string]uint32{}
	}
	e.told[id] = status
	e.mu.Unlock()
	if conn == nil {
		return // it has never taken part; keep has said so
	}
	_ = conn.Send(api.SessionEvent{Ended: id, Status: status})
}

// signal sends a container's first process a signal. One that has ended is ErrNotFound.
func (e *escrow) signal(id string, signal int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.kept[id][api.FilePidfd]
	if f == nil {
		return fmt.Errorf("its process is not known without its shim: %w", ErrNoAnswer)
	}
	err := pidfd.Take(f).Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return ErrNotFound
	}
	return err
}

// dropOthers closes what a former shim sent of containers that this one has not.
func (e *escrow) dropOthers(has map[string]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.kept {
		if !has[id] {
			e.dropLocked(id)
		}
	}
}

func (e *escrow) isOpen() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn != nil
}

// wait returns when all has come that a dead shim sent, or ctx ends.
func (e *escrow) wait(ctx context.Context) {
	e.mu.Lock()
	ended := e.ended
	e.mu.Unlock()
	if ended == nil {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// close closes all.
func (e *escrow) close() {
	e.mu.Lock()
	conn, ended := e.conn, e.ended
	e.mu.Unlock()
	if conn == nil {
		return
	}
	conn.Close()
	<-ended
	e.dropOthers(nil)
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// heritageFD is the descriptor of a successor that has its api.Handover. Those that it names
// come after.
const heritageFD = 4

// A heritage is what a successor inherits: the handover's file, and what that names.
type heritage struct{ files []*os.File }

// heritage names what is kept, for a successor, which gets duplicates. The files stay ours.
func (e *escrow) heritage() (*heritage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := &heritage{files: []*os.File{nil}}
	over := api.Handover{Tasks: map[string]map[string]int{}}
	for id, kept := range e.kept {
		over.Tasks[id] = map[string]int{}
		for name, f := range kept {
			over.Tasks[id][name] = heritageFD + len(h.files)
			h.files = append(h.files, f)
		}
	}
	f, err := api.NewHandover(over)
	if err != nil {
		return nil, err
	}
	h.files[0] = f
	return h, nil
}

// close closes what is of no use once the successor has it.
func (h *heritage) close() { h.files[0].Close() }
