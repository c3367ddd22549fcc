// Package lazyfs is a file system in this process, by FUSE, with one file, which answers when it is
// told to: at once, late, or not at all. A process that waits for it cannot be killed then.
//
// Nothing of it is on disk but the file behind it. When this process ends, who waits gets an error,
// and umount(8) takes away what is left.
package lazyfs
