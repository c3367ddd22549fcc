// Package recovery kills berthd with SIGKILL and looks at what the next one
// knows: containers go on undisturbed, all is listed, exits that happened
// meanwhile are known, and what was half made is gone.
//
//	go test -v ./test/recovery
package recovery
