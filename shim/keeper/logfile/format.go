package logfile

import (
	"bytes"
	"fmt"
	"time"
)

// MaxLine is where a long line is cut, in bytes of content: the longest that
// kubelet and the log collectors are used to.
const MaxLine = 16 << 10

// timeFormat is RFC 3339 with all nine digits, so that lines sort by time.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// names are the streams, as CRI's format calls them.
var names = [...]string{"stdout", "stderr"}

// A head makes the part of a record before its content. Equal heads make equal records.
type head struct {
	stream int
	stamp  int64 // Unix time in nanoseconds
}

func (h head) append(dst []byte, tag string) []byte {
	dst = time.Unix(0, h.stamp).UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, ' ')
	dst = append(dst, names[h.stream]...)
	return append(dst, tag...)
}

// maxHead is more than a record has beside its content, in bytes.
const maxHead = 64

// records appends p's records to dst until that has limit bytes: lines, and parts of MaxLine
// bytes of longer ones. With all, an unfinished last line is one too, marked as a part, which
// is what it is: kubelet then shows it without a line end that the container never wrote. It
// takes n bytes of p.
func (h head) records(dst, p []byte, all bool, limit int) (out []byte, n int) {
	var full, part [maxHead]byte
	f, q := h.append(full[:0], " F "), h.append(part[:0], " P ")
	for n < len(p) && len(dst) < limit {
		rest := p[n:]
		if i := bytes.IndexByte(rest[:min(len(rest), MaxLine+1)], '\n'); i >= 0 {
			dst = append(append(dst, f...), rest[:i+1]...)
			n += i + 1
			continue
		}
		if len(rest) > MaxLine {
			rest = rest[:MaxLine]
		} else if !all {
			break
		}
		dst = append(append(append(dst, q...), rest...), '\n')
		n += len(rest)
	}
	return dst, n
}

// whole finds where the records of p were last complete when done bytes of them had been
// written: after took bytes of p and out bytes of records.
func (h head) whole(p []byte, done int) (took, out int) {
	for took < len(p) {
		one, n := h.records(nil, p[took:], true, 1)
		if out+len(one) > done {
			break
		}
		took, out = took+n, out+len(one)
	}
	return took, out
}

// A reason is why output is missing.
type reason int64

const (
	noReason reason = iota
	failing         // the log could not be written
	slow            // the log was written too slowly
	limited         // more than the rate limit
	killed          // the process that had it in memory was killed
)

// note is the record that stands for what is missing. errno says why the log was failing.
func (h head) note(lines, size int64, why reason, errno int64) []byte {
	out := h.append(nil, " F ")
	if why == killed {
		return append(out, "berth: output of this stream may be missing here: the shim was killed while its state directory could not be written\n"...)
	}
	text := map[reason]string{
		slow:    "the log is written too slowly",
		limited: "more than log.rate_limit allows",
	}[why]
	if why == failing {
		text = errnoText(errno)
	}
	return fmt.Appendf(out, "berth: %d lines (%d bytes) of this stream are missing here: %s\n", lines, size, text)
}
