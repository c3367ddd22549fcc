//go:build tools

// Package tools names the program that the tests build: kubelet.
package tools

import _ "k8s.io/kubernetes/cmd/kubelet"
