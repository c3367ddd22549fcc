// Package installation puts berth on a node, or into a node's image, and takes it
// away again: programs, units for systemd, settings, and crictl's.
//
// What it has written is on record in RecordPath, with a checksum of each file.
// A file that somebody else wrote, or that was changed since, is left alone and
// named. Install and Uninstall may be called again at any time, also after a crash
// in the middle: the record is written first, and every file is replaced whole.
package installation
