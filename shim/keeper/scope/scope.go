// Package scope makes systemd's scopes, in which containers live on a node whose
// cgroups are systemd's (cgroup v2 only): one call for a scope, whose properties hold
// the container's limits, so that systemd's reloads do not undo them.
//
// Start of a name that is in use fails and changes nothing. A scope ends by itself
// when its last process has, and is forgotten by systemd then, failed or not: there is
// nothing to call at the end, and nothing to be done for one whose maker has died.
package scope

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Address is where systemd itself answers root, without the bus between: it needs no
// dbus-daemon, no greeting and no subscription to see how a job ends.
const Address = "unix:path=/run/systemd/private"

// Limit is how long systemd is given for a call, with the job that comes of it.
const Limit = 20 * time.Second

// stopWithin is how long a container may take to end when the machine shuts down, before
// it is killed: a pod's grace period where it names none. systemd's own 90 s would hold
// up the reboot of a node for every init that does not listen to SIGTERM.
const stopWithin = 30 * time.Second

// ErrSystemd is any failure of systemd's: it says no, or nothing.
var ErrSystemd = errors.New("systemd")

// A Property of a unit, as org.freedesktop.systemd1(5) has them.
type Property struct {
	Name  string
	Value dbus.Variant
}

// Systemd is the connection, made by the first call and again after it broke. The zero
// value talks to Address. It may be used from many goroutines; no lock is held while
// systemd is waited for.
type Systemd struct {
	Address string        // "" is Address
	Limit   time.Duration // 0 is Limit

	mu      sync.Mutex
	peer    *peer
	reloads map[int]func() // of OnReload
	next    int            // key of reloads
}

// A peer is one connection.
type peer struct {
	conn *dbus.Conn

	mu    sync.Mutex
	waits map[string]chan string // by unit
}

// Start makes the scope name with the process pid in slice, and returns when it is
// there. Slices that do not exist come with it.
func (s *Systemd) Start(ctx context.Context, name, slice string, pid int, limits []Property) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	p, err := s.connect(ctx)
	if err != nil {
		return fail("make "+name, err)
	}
	done := p.await(name)
	defer p.forget(name)
	props := append([]Property{
		{"Description", dbus.MakeVariant("Berth container " + name)},
		{"Slice", dbus.MakeVariant(slice)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
		{"Delegate", dbus.MakeVariant(true)},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
		{"DefaultDependencies", dbus.MakeVariant(false)},
		{"TimeoutStopUSec", dbus.MakeVariant(uint64(stopWithin.Microseconds()))},
		{"MemoryAccounting", dbus.MakeVariant(true)},
		{"CPUAccounting", dbus.MakeVariant(true)},
		{"IOAccounting", dbus.MakeVariant(true)},
		{"TasksAccounting", dbus.MakeVariant(true)},
	}, limits...)
	type aux struct {
		Name       string
		Properties []Property
	}
	if err := s.call(ctx, p, "StartTransientUnit", name, "fail", props, []aux{}); err != nil {
		return fail("make "+name+" in "+slice, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fail("make "+name+" in "+slice, fmt.Errorf("its job ended as %q; journalctl -b _PID=1 says why", result))
		}
		return nil
	case <-p.conn.Context().Done():
		s.drop(p)
		return fail("make "+name, errors.New("it closed the connection"))
	case <-ctx.Done():
		return fail("make "+name, silent(ctx))
	}
}

// Set changes properties of the scope name, until it ends.
func (s *Systemd) Set(ctx context.Context, name string, limits []Property) error {
	if len(limits) == 0 {
		return nil
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	p, err := s.connect(ctx)
	if err != nil {
		return fail("change "+name, err)
	}
	if err := s.call(ctx, p, "SetUnitProperties", name, true, limits); err != nil {
		return fail("change "+name, err)
	}
	return nil
}

// Stop stops the scope name, for when systemd has missed its end. Unknown is fine.
func (s *Systemd) Stop(ctx context.Context, name string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	p, err := s.connect(ctx)
	if err != nil {
		return fail("stop "+name, err)
	}
	err = s.call(ctx, p, "StopUnit", name, "replace")
	var refusal dbus.Error
	if err == nil || errors.As(err, &refusal) && refusal.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	return fail("stop "+name, err)
}

// Close ends the connection, if there is one. The next call makes another.
func (s *Systemd) Close() {
	s.mu.Lock()
	p := s.peer
	s.mu.Unlock()
	if p != nil {
		s.drop(p)
	}
}

func fail(what string, err error) error { return fmt.Errorf("%w: %s: %w", ErrSystemd, what, err) }

// silent is the error for an answer that does not come.
func silent(ctx context.Context) error {
	return fmt.Errorf("no answer: %w; systemctl status and journalctl -b _PID=1 say how it is", context.Cause(ctx))
}

func (s *Systemd) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	d := s.Limit
	if d == 0 {
		d = Limit
	}
	return context.WithTimeout(ctx, d)
}

func (s *Systemd) call(ctx context.Context, p *peer, method string, args ...any) error {
	err := s.object(p).CallWithContext(ctx, "org.freedesktop.systemd1.Manager."+method, 0, args...).Err
	if ctx.Err() != nil {
		return silent(ctx)
	}
	if errors.Is(err, dbus.ErrClosed) {
		s.drop(p)
	}
	return err
}

func (s *Systemd) object(p *peer) dbus.BusObject {
	return p.conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
}

// connect returns the connection. Two first calls may both make one; one of them stays.
func (s *Systemd) connect(ctx context.Context) (*peer, error) {
	s.mu.Lock()
	p := s.peer
	s.mu.Unlock()
	if p != nil && p.conn.Connected() {
		return p, nil
	}
	fresh, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peer != nil && s.peer.conn.Connected() {
		fresh.conn.Close()
		return s.peer, nil
	}
	s.peer = fresh
	return fresh, nil
}

// dial connects and proves who we are, which may hang as any answer may.
func (s *Systemd) dial(ctx context.Context) (*peer, error) {
	address := s.Address
	if address == "" {
		address = Address
	}
	conn, err := dbus.Dial(address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if !stop() {
		return nil, silent(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	p := &peer{conn: conn, waits: map[string]chan string{}}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	lasting := context.WithoutCancel(ctx)
	go func() {
		s.read(p, signals)
		s.drop(p) // signals end a moment before the connection counts as closed
		s.rejoin(lasting)
	}()
	return p, nil
}

func (s *Systemd) drop(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peer == p {
		s.peer = nil
	}
	p.conn.Close()
}

// await is told how the job of a unit ends, from now on.
func (p *peer) await(unit string) <-chan string {
	done := make(chan string, 1)
	p.mu.Lock()
	p.waits[unit] = done
	p.mu.Unlock()
	return done
}

func (p *peer) forget(unit string) {
	p.mu.Lock()
	delete(p.waits, unit)
	p.mu.Unlock()
}

// read hands on JobRemoved(id, job, unit, result) and the ends of reloads until the
// connection ends.
func (s *Systemd) read(p *peer, signals <-chan *dbus.Signal) {
	for sig := range signals {
		if isReloaded(sig) {
			s.reloaded()
		}
		if sig.Name != "org.freedesktop.systemd1.Manager.JobRemoved" || len(sig.Body) != 4 {
			continue
		}
		unit, _ := sig.Body[2].(string)
		result, _ := sig.Body[3].(string)
		p.mu.Lock()
		done := p.waits[unit]
		delete(p.waits, unit)
		p.mu.Unlock()
		if done != nil {
			done <- result
		}
	}
}
