//go:build nosync || nosynctree

package durable

import "os"

// settleTree waits for nothing, as settle in nosync.go.
func settleTree(*os.File) error { return nil }
