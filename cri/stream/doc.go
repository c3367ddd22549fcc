// Package stream is the HTTP server behind the CRI's Exec, Attach and
// PortForward: each RPC is answered with a URL that works once, and whoever
// fetches it gets a session over SPDY or WebSocket (k8s.io/cri-streaming has the
// protocols).
//
// A session belongs to its client's connection. When that ends, by whichever
// side, everything of the session ends: the process, the copies and the
// goroutines. Memory is bounded, for a client that sends nothing, reads nothing
// or asks too often. Who may use a URL is not asked again: it is a secret that
// kubelet gets over the CRI socket, so the server listens on the loopback address
// unless the settings say otherwise.
package stream
