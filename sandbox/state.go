package sandbox

import (
	"fmt"
	"slices"
)

// A State is where a pod or a container is in its life. It is written to disk
// as it stands here, so the strings never change.
type State string

// The states of pods and containers.
const (
	Creating State = "creating" // recorded; its resources may or may not exist; not listed
	Removing State = "removing" // being taken down; there is no way back

	Ready    State = "ready"    // a pod: its namespaces and network are up
	Stopping State = "stopping" // a pod: takes no new containers
	NotReady State = "notready" // a pod: nothing runs; disk and network may remain

	Created State = "created" // a container: its init waits to be started
	Running State = "running" // a container: its process runs
	Exited  State = "exited"  // a container: its exit is on record
)

// podMoves and containerMoves are the state machines. There are no others.
var (
	podMoves = map[State][]State{
		Creating: {Ready, NotReady, Removing}, // NotReady: the rollback did not finish
		Ready:    {Stopping, NotReady},        // NotReady: the holder died, or the node rebooted
		Stopping: {Stopping, NotReady},        // a stop that failed is tried again
		NotReady: {Stopping, Removing},        // StopPodSandbox may be repeated
		Removing: {Removing},                  // so may RemovePodSandbox
	}
	containerMoves = map[State][]State{
		Creating: {Created, Exited, Removing}, // Exited: the rollback did not finish
		Created:  {Running, Exited},
		Running:  {Exited},
		Exited:   {Removing},
		Removing: {Removing},
	}
)

// allowed returns ErrBadState when moves has no way from one state to next.
func allowed(moves map[State][]State, from, next State) error {
	if !slices.Contains(moves[from], next) {
		return fmt.Errorf("%s to %s: %w", from, next, ErrBadState)
	}
	return nil
}

// promises tells whether being in s promises something to the caller. Such a
// state is saved before it is seen; one that only withdraws is seen even when
// it cannot be saved, because freeing must never wait for space.
func promises(s State) bool {
	return s == Creating || s == Ready || s == Created
}
