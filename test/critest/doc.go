// Package critest runs upstream's critest v1.36.0 against a fresh daemon with a
// root, a state folder, a socket, a network and a registry of its own.
//
//	go test -v ./test/critest
//
// The specs that may fail stand in expected-failures.txt, one name a line. One
// that fails and is not there, or passes and is there, fails the run; so does
// anything that is left on the machine afterwards. With BERTH_CRITEST_RUNTIME=containerd
// the same specs run against containerd, which shows that the images are right.
// BERTH_CRITEST_FOCUS is a regular expression of specs to run alone.
//
// The streaming specs run a second time, over WebSocket. BERTH_CRITEST_RUNS=5
// runs all specs five times in a row on the same daemon (give go test a -timeout
// to match), and BERTH_CRITEST_PARALLEL=2 runs them in two processes side by side.
package critest
