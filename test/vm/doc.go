// The vm program runs tests in a virtual machine with Debian 12's own kernel,
// systemd and cgroup v2 or v1, with AppArmor or SELinux: what the machine that builds
// berth may lack.
//
//	go run ./test/vm run              suites chosen for half an hour, one line each; make test-vm does it
//	go run ./test/vm run -short       those that .ci/run runs
//	go run ./test/vm run NAME...      the suites named; go run ./test/vm suites lists them,
//	                                  and marks those that run by their names alone with a +
//
// To work in such a machine:
//
//	go run ./test/vm up NAME [PROFILE]     boots one that stays; apparmor, selinux or v1
//	go run ./test/vm exec NAME COMMAND...  runs a command in it, in /berth
//	go run ./test/vm push NAME [PKG...]    brings new binaries and the tests of PKGs (test/stats) in
//	go run ./test/vm down NAME             ends it
//
// In the machine /berth looks like the repository, with bin/, what .cache has, and
// for each package its test, compiled, beside its testdata: exec NAME
// test/in test/stats -test.run TestPod runs one, with the environment that tests
// need there. /share is .cache/vm/run/NAME/share. systemd-run, journalctl, busctl
// and the console's log (.cache/vm/run/NAME/console.log) say the rest.
package main
