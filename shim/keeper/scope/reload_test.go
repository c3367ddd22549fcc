package scope

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// reloading sends the signal for a reload that begins or ends.
func (f *fake) reloading(begins bool) {
	f.t.Helper()
	m := &dbus.Message{Type: dbus.TypeSignal, Body: []any{begins}, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
		dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
		dbus.FieldMember:    dbus.MakeVariant("Reloading"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(begins)),
	}}
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		f.t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b.Bytes()[8:], 1000)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		if _, err := c.Write(b.Bytes()); err != nil {
			f.t.Error(err)
		}
	}
}

// TestOnReload: who asked is told of each reload's end, also of the one that comes with
// a new connection, and not after it said that it has had enough.
func TestOnReload(t *testing.T) {
	f := newFake(t)
	s := f.systemd()
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.methods(); got != "Ping" {
		t.Errorf("calls %q", got)
	}
	told := make(chan struct{}, 8)
	stop := s.OnReload(func() { told <- struct{}{} })
	wait := func(when string) {
		t.Helper()
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatal("not told ", when)
		}
	}
	f.reloading(true)
	f.reloading(false)
	wait("of a reload")
	f.hangUp()
	wait("of a new connection")
	f.reloading(false)
	wait("of a reload on it")
	stop()
	other := s.OnReload(func() { told <- struct{}{} }) // its turn comes after all that is said before
	f.reloading(false)
	wait("the other one")
	other()
	s.Close()
	if len(told) != 0 {
		t.Errorf("told %d times more", len(told))
	}
}
