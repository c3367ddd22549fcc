// Package badinput gives berthd what it must refuse: settings, folders, requests
// and images. It expects one clear answer each time, nothing made on the way,
// and that the next attempt works.
//
//	go test -v ./test/badinput
package badinput
