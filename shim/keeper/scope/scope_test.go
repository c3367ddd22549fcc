package scope

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
)

// A fake is systemd's end of a private socket: it counts calls, and answers them as
// told.
type fake struct {
	t       *testing.T
	address string
	answer  func(method string) (refusal, result string, silent bool)

	mu    sync.Mutex
	calls []string       // methods
	props map[string]any // of the last call
	conns []net.Conn
}

func newFake(t *testing.T) *fake {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, address: "unix:path=" + socket}
	f.answer = func(string) (string, string, bool) { return "", "done", false }
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			served.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		f.hangUp()
		served.Wait()
	})
	return f
}

func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func (f *fake) methods() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, " ")
}

func (f *fake) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(strings.TrimLeft(line, "\x00"))
		if line == "BEGIN" {
			break
		}
		switch {
		case line == "AUTH":
			fmt.Fprint(conn, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			fmt.Fprint(conn, "OK 0123456789abcdef0123456789abcdef\r\n")
		default:
			fmt.Fprint(conn, "ERROR\r\n")
		}
	}
	var serial uint32
	send := func(m *dbus.Message) {
		var b bytes.Buffer
		if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
			f.t.Error(err)
			return
		}
		serial++
		binary.LittleEndian.PutUint32(b.Bytes()[8:], serial) // where a message has its own
		_, _ = conn.Write(b.Bytes())                         // a client that is gone reads nothing
	}
	for {
		call, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		f.handle(call, send)
	}
}

// handle counts a call and answers it. A job ends before its call is answered, as it
// may: systemd sends both in the order in which it gets to them.
func (f *fake) handle(call *dbus.Message, send func(*dbus.Message)) {
	method, _ := call.Headers[dbus.FieldMember].Value().(string)
	f.mu.Lock()
	f.calls = append(f.calls, method)
	f.props = map[string]any{}
	for _, arg := range call.Body {
		props, _ := arg.([][]any)
		for _, p := range props {
			f.props[p[0].(string)] = p[1].(dbus.Variant).Value()
		}
	}
	f.mu.Unlock()
	refusal, result, silent := f.answer(method)
	if silent {
		return
	}
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
	}}
	if refusal != "" {
		reply.Type = dbus.TypeError
		reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(refusal)
		send(reply)
		return
	}
	if method == "StartTransientUnit" {
		path := dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
		body := []any{uint32(7), path, call.Body[0], result}
		send(&dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
			dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
			dbus.FieldMember:    dbus.MakeVariant("JobRemoved"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
		}})
		reply.Body = []any{path}
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(path))
	}
	send(reply)
}

func (f *fake) systemd() *Systemd { return &Systemd{Address: f.address, Limit: 10 * time.Second} }

func TestOneCallForAScope(t *testing.T) {
	f := newFake(t)
	s := f.systemd()
	limits, err := Limits(&cgroups.Resources{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), "berth-c1.scope", "kubepods.slice", 42, limits); err != nil {
		t.Fatal(err)
	}
	if got := f.methods(); got != "StartTransientUnit" {
		t.Errorf("calls %q, want one", got)
	}
	for name, want := range map[string]any{
		"Slice": "kubepods.slice", "Delegate": true, "CollectMode": "inactive-or-failed", "MemoryMax": uint64(64 << 20),
		"TimeoutStopUSec": uint64(30e6), // what a reboot waits for it
	} {
		if f.props[name] != want {
			t.Errorf("%s = %v, want %v", name, f.props[name], want)
		}
	}
	if err := s.Set(t.Context(), "berth-c1.scope", limits); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(t.Context(), "berth-c1.scope", nil); err != nil {
		t.Fatal(err)
	}
	if got := f.methods(); got != "StartTransientUnit SetUnitProperties" {
		t.Errorf("calls %q, want one for the update", got)
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name, refusal, result string
		silent                bool
		want                  string
	}{
		{name: "refused", refusal: "org.freedesktop.systemd1.UnitExists", want: "make a.scope in b.slice"},
		{name: "job fails", result: "failed", want: "journalctl"},
		{name: "silent", silent: true, want: "no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.answer = func(string) (string, string, bool) { return tt.refusal, tt.result, tt.silent }
			s := f.systemd()
			if tt.silent {
				s.Limit = 50 * time.Millisecond
			}
			err := s.Start(t.Context(), "a.scope", "b.slice", 42, nil)
			if !errors.Is(err, ErrSystemd) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one of systemd that says %q", err, tt.want)
			}
			if tt.silent && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want DeadlineExceeded", err)
			}
		})
	}
}

// now is the connection that there is.
func (s *Systemd) now() *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

// TestSystemdComesBack: a connection that broke is made again by the next call.
func TestSystemdComesBack(t *testing.T) {
	f := newFake(t)
	s := f.systemd()
	for range 2 {
		if err := s.Start(t.Context(), "a.scope", "b.slice", 42, nil); err != nil {
			t.Fatal(err)
		}
		conn := s.now().conn
		f.hangUp()
		<-conn.Context().Done()
	}
	if got := f.methods(); got != "StartTransientUnit StartTransientUnit" {
		t.Errorf("calls %q", got)
	}
}

// TestClose: nothing stays open of one that was for a single call.
func TestClose(t *testing.T) {
	f := newFake(t)
	s := f.systemd()
	if err := s.Stop(t.Context(), "a.scope"); err != nil {
		t.Fatal(err)
	}
	conn := s.now().conn
	s.Close()
	s.Close()
	select {
	case <-conn.Context().Done():
	case <-t.Context().Done():
		t.Error("the connection is open")
	}
	if err := s.Stop(t.Context(), "a.scope"); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// TestNoSwapIsSaid: systemd takes what it is not told for no limit.
func TestNoSwapIsSaid(t *testing.T) {
	limits, err := Limits(&cgroups.Resources{Memory: 64 << 20, MemorySwap: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]any{}
	for _, l := range limits {
		said[l.Name] = l.Value.Value()
	}
	if said["MemorySwapMax"] != uint64(0) {
		t.Errorf("properties %v, want MemorySwapMax 0", said)
	}
}

// TestUnifiedIsSaid: so is each file that systemd writes itself.
func TestUnifiedIsSaid(t *testing.T) {
	for _, tt := range []struct {
		file, value, property string
		want                  any
	}{
		{"memory.high", "1048576", "MemoryHigh", uint64(1 << 20)},
		{"memory.max", "max", "MemoryMax", uint64(math.MaxUint64)},
		{"cpu.max", "50000 100000", "CPUQuotaPerSecUSec", uint64(500_000)},
		{"cpu.max", "1 1152921504606846976", "CPUQuotaPerSecUSec", nil}, // 1<<60, which must not overflow
		{"cpu.max", "max", "CPUQuotaPerSecUSec", uint64(math.MaxUint64)},
		{"io.weight", "default 55", "IOWeight", uint64(55)},
		{"io.weight", "55", "IOWeight", uint64(55)},
		{"io.weight", "8:0 55", "IOWeight", nil},
		{"cpuset.cpus", "0-1", "AllowedCPUs", "[3]"},
		{"memory.oom.group", "1", "OOMPolicy", nil},
	} {
		limits, err := Limits(&cgroups.Resources{Unified: map[string]string{tt.file: tt.value}})
		if err != nil {
			t.Errorf("%s %s: %v", tt.file, tt.value, err)
		}
		var got any
		for _, l := range limits {
			if l.Name == tt.property {
				got = l.Value.Value()
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s %s: %s = %v, want %v", tt.file, tt.value, tt.property, got, tt.want)
		}
	}
}

func TestQuotaIsWhatSystemdKeeps(t *testing.T) {
	for _, tt := range []struct {
		quota, want int64
		perSecond   uint64
	}{{50_000, 50_000, 500_000}, {12_500, 13_000, 130_000}, {-1, -1, math.MaxUint64}} {
		r := &cgroups.Resources{CpuQuota: tt.quota, CpuPeriod: 100_000}
		limits, err := Limits(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range limits {
			if l.Name == "CPUQuotaPerSecUSec" && l.Value.Value() != tt.perSecond {
				t.Errorf("quota %d: %v per second, want %d", tt.quota, l.Value.Value(), tt.perSecond)
			}
		}
		if r.CpuQuota != tt.want {
			t.Errorf("quota %d: file gets %d, want %d", tt.quota, r.CpuQuota, tt.want)
		}
	}
}
