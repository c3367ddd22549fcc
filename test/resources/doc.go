// Package resources changes what real containers may use, and lets them use too much:
// what the kernel then has, what the status says, and who is said to be OOM-killed. It
// runs on cgroup v1 and on v2, and with either cgroup driver: BERTH_TEST_CGROUP_DRIVER=systemd
// names the one that is not the default.
//
//	go test -v ./test/resources
package resources
