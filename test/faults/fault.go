package main

import (
	"context"
	"slices"
)

// A fault is a party that lets the runtime down, and what is to be seen meanwhile.
type fault struct {
	name  string
	party string // what is done to whom, for the table

	extra string // of berth's configuration, under [shim]

	// setUp changes the scene before its daemon starts; nil: nothing.
	setUp func(context.Context, *scene) error
	// hold lets the runtime down, for the pods whose names begin with who, and free ends it.
	// free may be called when nothing is held.
	hold func(ctx context.Context, s *scene, who string) error
	free func(context.Context, *scene) error
	// meet prepares a pod, before the party is held, that is going to meet it; nil: none does.
	meet func(ctx context.Context, s *scene, name string) (meeting, error)

	others bool   // the party is held for one pod, and others' pods are expected to go on
	said   string // what is to be said of the pod that meets it: part of the error, or of berth why; or one of several, separated by |
	passes bool   // what meets the party may be done all the same

	everyone *expect // the party is held for all, and this is to be what Status says; nil: it is not
}

// A meeting is what one pod asks for that depends on the party.
type meeting struct {
	pod  string                      // its name
	do   func(context.Context) error // repeated until it succeeds, as kubelet does
	undo func(context.Context) error // takes away all of the pod
}

// An expect is a condition that is to become false.
type expect struct {
	condition string
	text      string // part of its message
}

// faults is the matrix, in the order of its table.
func faults() []fault {
	return slices.Concat(networkFaults(), registryFaults(), []fault{shimStopped(), shimShared()}, diskFaults(), lazyFaults(),
		[]fault{leftovers(), pidsFull(), memoryPressure()})
}
