// Package crash kills berthd, berth-shim or both at every point that they can be left half
// done at: before each step of each list is done or undone, and around each write, rename,
// mount and run of a plugin (package crashpoint). It finds the points by itself, in a life of
// an image, a pod and a container that nobody disturbs. Then it begins that life anew for
// each point and each time that it is passed, and kills there. The next process is started,
// the same request has to succeed, and at the end the machine is to be as before: mounts,
// namespaces, cgroups, processes, descriptors, interfaces, addresses, rules and files.
//
// A step and a write in the source that no life passes fails the test, and names it.
//
//	make test-crash               everything
//	go test -v ./test/crash       a sample, by the commit; BERTH_CRASH_SEED=x another one
//	go test -v ./test/crash -args -point 'pod: undo network'    what has that in its name
package crash
