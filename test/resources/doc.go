// Package resources changes what real containers may use, and lets them use too much:
// what the kernel then has, what the status says, and who is said to be OOM-killed. It
// runs on cgroup v1 and on v2.
//
//	go test -v ./test/resources
package resources
