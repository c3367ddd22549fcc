// Package security looks at real containers from inside and from the host: user
// namespaces and the others, who a process is, what it may do and what it can reach.
//
//	go test -v ./test/security
package security
