// Package events tries out, with a daemon of its own, what a kubelet lives through
// when something goes wrong: CNI plugins that fail or hang, calls that are given up
// and repeated, a daemon that is killed, a node that is not fit, and events that
// are read, or not.
//
//	go test -v ./test/events
package events
