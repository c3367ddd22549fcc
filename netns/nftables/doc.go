// Package nftables writes and reads rules of the kernel's nf_tables over netlink, as the
// CNI reference plugins and iptables-nft write them, without running a program.
//
// It is small because it knows no more than those rules. github.com/google/nftables would
// do, but that it cannot give tables and chains the comments that the plugins give them, and
// that it cannot read a chain with a rule of somebody else's that it does not understand.
//
// A Batch takes effect as a whole or not at all, also when the process is killed. Change is
// the usual way to make one. A Conn speaks to the network namespace of the thread that opened it. It is not safe for
// concurrent use.
package nftables

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
)

// ErrUnsupported: the kernel has no nf_tables to speak to.
var ErrUnsupported = errors.New("the kernel has no nf_tables")

// changeTries is how often a change is tried that meets somebody else's.
const changeTries = 5

// Change has plan read what is there and fill a batch, and commits it. Where something that
// was to be changed is gone by then, it begins again.
func Change(plan func(*Conn, *Batch) error) error {
	for try := 1; ; try++ {
		err := change(plan)
		if !errors.Is(err, os.ErrNotExist) || try == changeTries {
			return err
		}
	}
}

func change(plan func(*Conn, *Batch) error) error {
	c, err := Open()
	if err != nil {
		return err
	}
	defer c.Close()
	var b Batch
	if err := plan(c, &b); err != nil {
		return err
	}
	return c.Commit(&b)
}

// A Family is an address family of nf_tables.
type Family uint8

// A Table is a table by name. Its chains are called by their names.
type Table struct {
	Family Family
	Name   string
}

// A Hook is where a base chain of type nat is called.
type Hook struct {
	Number   uint32
	Priority int32
}

// The hooks of NAT, with the priorities that nft calls dstnat and srcnat, as iptables has them too.
var (
	Prerouting  = Hook{0, -100}
	Output      = Hook{3, -100}
	Postrouting = Hook{4, 100}
)

// A Rule is what is read of one.
type Rule struct {
	Handle  uint64
	Comment string
	Target  string // the chain that it jumps or goes to
}

// Source is for packets from p.
func Source(p netip.Prefix) []Expr { return address(p, cmpEqual, 12, 8) }

// Destination is for packets to p.
func Destination(p netip.Prefix) []Expr { return address(p, cmpEqual, 16, 24) }

// NotDestination is for packets that do not go to p.
func NotDestination(p netip.Prefix) []Expr { return address(p, cmpNotEqual, 16, 24) }

// address compares the address at an offset of the network header, by its family. The
// whole address is loaded for a part of it too: every version of iptables-nft reads that.
func address(p netip.Prefix, op uint32, offset4, offset6 uint32) []Expr {
	offset := offset4
	if p.Addr().Is6() {
		offset = offset6
	}
	want := p.Masked().Addr().AsSlice()
	all := []Expr{payload(networkHeader, offset, uint32(len(want)))}
	if p.Bits() < p.Addr().BitLen() {
		all = append(all, mask(p.Bits(), len(want)))
	}
	return append(all, compare(op, want))
}

// Proto is for packets of a protocol above IP, by its number, and with a port of
// destination.
func Proto(proto uint8, port uint16) []Expr {
	return []Expr{
		meta(metaL4Proto), compare(cmpEqual, []byte{proto}),
		payload(transportHeader, 2, 2), compare(cmpEqual, binary.BigEndian.AppendUint16(nil, port)),
	}
}

// OfFamily is for packets of a family, in a table of Inet.
func OfFamily(f Family) []Expr {
	return []Expr{meta(metaNFProto), compare(cmpEqual, []byte{byte(f)})}
}

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}
