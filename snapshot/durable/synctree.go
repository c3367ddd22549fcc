//go:build !nosync && !nosynctree

package durable

import "os"

// settleTree is settle for SyncTree.
func settleTree(f *os.File) error { return f.Sync() }
