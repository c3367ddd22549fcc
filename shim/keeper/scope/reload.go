package scope

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// OnReload has again called each time systemd has read its units anew (daemon-reload,
// daemon-reexec): it then writes the files of every scope as it knows them, and 0 into
// those that no property of a scope is for. stop ends it; again may run once more
// meanwhile. The connection is made anew when systemd closes it, as long as there is
// somebody to tell.
func (s *Systemd) OnReload(again func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reloads == nil {
		s.reloads = map[int]func(){}
	}
	id := s.next
	s.next++
	s.reloads[id] = again
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.reloads, id)
	}
}

// Settle returns when systemd has done what follows from the calls before: it answers a
// call of Set before it writes the files.
func (s *Systemd) Settle(ctx context.Context) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	p, err := s.connect(ctx)
	if err != nil {
		return fail("settle", err)
	}
	if err := s.object(p).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err; err != nil {
		return fail("settle", err)
	}
	return nil
}

// reloaded tells all who want to know.
func (s *Systemd) reloaded() {
	s.mu.Lock()
	all := make([]func(), 0, len(s.reloads))
	for _, again := range s.reloads {
		all = append(all, again)
	}
	s.mu.Unlock()
	for _, again := range all {
		again()
	}
}

// isReloaded tells the signal for the end of a reload.
func isReloaded(sig *dbus.Signal) bool {
	if sig.Name != "org.freedesktop.systemd1.Manager.Reloading" || len(sig.Body) != 1 {
		return false
	}
	begins, ok := sig.Body[0].(bool)
	return ok && !begins
}

// rejoin makes the connection anew after systemd has closed it, which it does when it
// executes itself: all its units are read anew then.
// ctx is not to end.
func (s *Systemd) rejoin(ctx context.Context) {
	for wait := 100 * time.Millisecond; s.listened(); wait = min(2*wait, 10*time.Second) {
		limited, cancel := s.limit(ctx)
		_, err := s.connect(limited)
		cancel()
		if err == nil {
			s.reloaded()
			return
		}
		time.Sleep(wait)
	}
}

// listened tells whether there is somebody to tell of reloads.
func (s *Systemd) listened() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.reloads) > 0
}
