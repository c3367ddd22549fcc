//go:build !nosync

package durable

import "os"

// settle waits until f, a file or a directory, is on disk. All that is under root and
// waits for the disk does it here.
func settle(f *os.File) error { return f.Sync() }
