// Package kubelet has a real kubelet, without an API server, run static pods on
// berthd: the whole of a pod's life as a node sees it. It runs on any machine, with
// the cgroup driver that berthd tells kubelet.
//
// kubelet changes some of the machine's settings; they are put back, and what it
// made is removed.
package kubelet
