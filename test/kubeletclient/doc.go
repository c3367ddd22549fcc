// Package kubeletclient drives berthd with kubelet's own CRI client
// (k8s.io/cri-client) and expects what kubelet relies on: what its client
// checks, the errors that it tells apart, and logs as it reads them.
//
//	go test -v ./test/kubeletclient
package kubeletclient
