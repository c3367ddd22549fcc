// Package stats asks a running daemon what pods and containers use, over the CRI, on
// the real kernel. TestAnswers' table is the same on cgroup v1 and v2 and with both drivers,
// of which BERTH_TEST_CGROUP_DRIVER=systemd names the one that is not the default.
package stats
