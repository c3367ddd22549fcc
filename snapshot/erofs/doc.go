// Package erofs writes the metadata of EROFS file systems whose files' bytes lie in
// other files, the devices: a layer's data is one device, and an image made of many
// layers is one file of metadata over their devices, with one tree in it.
//
// github.com/erofs/go-erofs reads what is written here in the tests. It writes such file
// systems too, but gives each name of a file an inode of its own, and layers have hard links.
//
// Write makes the same bytes of the same tree. Nothing here waits for the disk, and
// what a crash leaves half-written is for the caller to throw away.
//
// The format is the kernel's (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h):
// inodes of 64 bytes, because the short ones have no date; a file's data is one chunk of
// one device.
package erofs
