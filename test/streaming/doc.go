// Package streaming tests Exec, Attach and PortForward on a real node with
// clients of its own: over SPDY and WebSocket, and clients that vanish, flood or
// do not read.
package streaming
