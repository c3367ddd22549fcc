// Package inflate decompresses gzip (RFC 1952) with DEFLATE (RFC 1951) in it, the
// form that most layers of images come in, and the largest single cost of a pull.
//
// It takes what compress/gzip takes and gives the same bytes, three times as
// fast (go test ./imageservice/inflate -run xxx -bench Layer): members that follow each other
// are one stream, and every member's CRC-32 and length are verified. The input is hostile: whatever it says, memory is
// constant (about half a megabyte for each Reader), time is linear in input and
// output, and the end is an error, never a panic. It keeps nothing on disk, so a
// crash leaves nothing behind.
//
// It differs from compress/gzip in this:
//   - Empty input is io.ErrUnexpectedEOF, not io.EOF.
//   - Reserved flags in a header are an error (RFC 1952, 2.3.1.2).
//   - A block without a code for its end is refused at once, not where it must fail.
//   - The input is read to its end, in large pieces.
//
// What follows the last member is an error, be it garbage or zeros, as in
// compress/gzip and unlike gzip(1), which ignores both.
package inflate
