//go:build !nosync

package durable

import "os"

// settle waits until f, a file or a directory, is on disk. Beside settleTree it is all
// that waits for the disk below root.
func settle(f *os.File) error { return f.Sync() }
