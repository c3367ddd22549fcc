package api

import "fmt"

// The protocol between a daemon and its shims: both services on the shim's socket, sessions,
// and the files of the state directory. Each side may be of an earlier or a later release
// than the other.
//
//	1  all up to the escrow of descriptors; a shim that says nothing of its protocol
//	2  ListResponse.shim, Keeper.Upgrade
//
// What is added without a change of what was there needs no new number: an unknown call is
// Unimplemented, an unknown field is passed over. A number that one side has given up keeps
// the two apart, and OldestProtocol rises with it.
const (
	Protocol       = 2
	OldestProtocol = 1
)

// RecordVersion is that of the records in the state directory. A reader takes what it knows
// of a later one, and leaves the file as it is.
const RecordVersion = 1

// A Program is what a berth-shim program says of itself: berth-shim version --json.
type Program struct {
	Version        string `json:"version"` // of its release
	Protocol       uint32 `json:"protocol"`
	OldestProtocol uint32 `json:"oldestProtocol"`
}

// ProgramOf is this program, of that release.
func ProgramOf(version string) Program {
	return Program{Version: version, Protocol: Protocol, OldestProtocol: OldestProtocol}
}

// Range is what protocols a shim speaks. One of a release that says nothing speaks the first.
func (i *ShimInfo) Range() (oldest, newest uint32) {
	return max(1, i.GetOldestProtocol()), max(1, i.GetProtocol())
}

// Meet is the protocol that a side which speaks those from oldest to newest is spoken to
// with, or an error that says who is to be changed for which release.
func Meet(oldest, newest uint32) (uint32, error) {
	common := min(newest, Protocol)
	switch {
	case common < oldest:
		return 0, fmt.Errorf("it speaks the shim protocol from %d on and this release up to %d: install the release that it is of, or a later one", oldest, Protocol)
	case common < OldestProtocol:
		return 0, fmt.Errorf("it speaks the shim protocol up to %d and this release from %d on: go by way of a release between the two, or start its pods anew", newest, OldestProtocol)
	}
	return common, nil
}
