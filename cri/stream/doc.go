// Package stream is the HTTP server behind the CRI's Exec, Attach and
// PortForward: each RPC is answered with a URL that works once, and whoever
// fetches it gets a session over SPDY or WebSocket (k8s.io/cri-streaming has the
// protocols).
//
// Over WebSocket, commands and attachments are also spoken to as v5.channel.k8s.io,
// which can end stdin, and port-forward as SPDY in a tunnel (KEP-4006): crictl and
// critest offer nothing else, and k8s.io/cri-streaming has neither. kubelet itself
// comes over SPDY.
//
// A session belongs to its client's connection. When that ends, by whichever
// side, everything of the session ends: the process, the copies and the
// goroutines. Memory is bounded, for a client that sends nothing, reads nothing
// or asks too often. A client that does not read holds up its own command, never a
// container or its log, and has idleLimit for it, since a person may have stopped
// their terminal; once the command has ended it has lingerLimit. A client whose
// input is not taken may wait as long, but is probed (stall).
//
// Who may use a URL is not asked again: it is a secret that kubelet gets over the
// CRI socket, so the server listens on the loopback address unless the settings
// say otherwise.
package stream
