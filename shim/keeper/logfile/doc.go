// Package logfile writes a container's log in CRI's format. It promises that every byte that
// is taken from a stream is written once, however the process dies, as long as somebody else
// keeps the streams open and calls Open again with the same folder.
//
// What a stream says is moved by splice(2) to the end of a spool, a file per stream in the
// container's bundle: the kernel moves the bytes and the file's size in one system call that
// SIGKILL cannot cut in two, so the size says what was taken. A ledger beside it, mapped into
// memory, says how much of each spool has been consumed, and which one write to the log is
// under way: the part of which spool, its timestamp, and the log's size before it. Records are
// a function of these, so a successor compares sizes and writes what is missing, within a
// record too. The log may have been renamed meanwhile: it is known by its inode.
//
// Where the spool or the ledger cannot be kept in the bundle, memory takes their place, and
// the promise is off; that is logged. A terminal can be spliced into a pipe only, so its output
// passes one (Source.Ferry), which has to be kept open by somebody else as well.
//
// What cannot be written waits in the spool, up to Room, and what finds no room is counted in
// the log, in the place where it is missing. A stream is never left unread for longer than
// BlockLimit, nor at all while the log fails rather than hangs.
//
// All of it may be called again after a crash.
package logfile
