package cgroupstat

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// value is the number that a file holds. What is none, "max" among others, is 0, and so is
// what has no room in 64 bits.
func value[T string | []byte](text T) uint64 {
	begin, end := 0, len(text)
	for begin < end && text[end-1] <= ' ' {
		end--
	}
	for begin < end && text[begin] <= ' ' {
		begin++
	}
	n := uint64(0)
	for ; begin < end; begin++ {
		digit := uint64(text[begin]) - '0'
		if digit > 9 || n > (math.MaxUint64-digit)/10 {
			return 0
		}
		n = 10*n + digit
	}
	return n
}

// limit is a limit in bytes, 0 for none: cgroup v1 writes "none" as a number near 2^63,
// rounded to pages.
func limit(text []byte) uint64 {
	if n := value(text); n < math.MaxInt64-1<<20 {
		return n
	}
	return 0
}

// next is what text has before sep, and what comes after; all of it and nothing without one.
func next(text []byte, sep byte) (before, after []byte) {
	if i := bytes.IndexByte(text, sep); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, nil
}

// pairs calls see for each line of a flat keyed file: "key value". key is part of text.
func pairs(text []byte, see func(key []byte, value uint64)) {
	for len(text) > 0 {
		var line []byte
		line, text = next(text, '\n')
		if key, v := next(line, ' '); len(v) > 0 {
			see(key, value(v))
		}
	}
}

// stall reads a pressure file (Documentation/accounting/psi.rst).
func stall(text []byte) (s Stall) {
	for len(text) > 0 {
		var line, kind []byte
		line, text = next(text, '\n')
		kind, line = next(line, ' ')
		to := &s.Some
		switch string(kind) {
		case "some":
		case "full":
			to = &s.Full
		default:
			continue
		}
		for len(line) > 0 {
			var field []byte
			field, line = next(line, ' ')
			to.set(next(field, '='))
		}
	}
	return s
}

func (t *StallTime) set(key, v []byte) {
	switch string(key) {
	case "avg10":
		t.Avg10 = percent(v)
	case "avg60":
		t.Avg60 = percent(v)
	case "avg300":
		t.Avg300 = percent(v)
	case "total":
		t.Total = value(v) * 1000
	}
}

func percent(text []byte) float64 {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsNaN(f) {
		return 0
	}
	return f
}

// device reads "major:minor".
func device(text string) (major, minor uint32, ok bool) {
	a, b, ok := strings.Cut(text, ":")
	maj, err1 := strconv.ParseUint(a, 10, 32)
	min, err2 := strconv.ParseUint(b, 10, 32)
	return uint32(maj), uint32(min), ok && err1 == nil && err2 == nil
}

// devices keeps one DeviceIO for each device, in the order they are first seen.
type devices []DeviceIO

func (d *devices) at(major, minor uint32) *DeviceIO {
	for i := range *d {
		if (*d)[i].Major == major && (*d)[i].Minor == minor {
			return &(*d)[i]
		}
	}
	*d = append(*d, DeviceIO{Major: major, Minor: minor})
	return &(*d)[len(*d)-1]
}

// ioStat reads io.stat of cgroup v2: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func ioStat(text string) []DeviceIO {
	var list devices
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		major, minor, ok := device(fields[0])
		if !ok {
			continue
		}
		d := list.at(major, minor)
		for _, f := range fields[1:] {
			key, v, _ := strings.Cut(f, "=")
			switch key {
			case "rbytes":
				d.ReadBytes = value(v)
			case "wbytes":
				d.WriteBytes = value(v)
			case "rios":
				d.Reads = value(v)
			case "wios":
				d.Writes = value(v)
			}
		}
	}
	return list
}

// blkio reads the two files of cgroup v1: "8:0 Read 1", "8:0 Write 2", "Total 3".
func blkio(bytes, ops string) []DeviceIO {
	var list devices
	each := func(text string, see func(d *DeviceIO, op string, n uint64)) {
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			if major, minor, ok := device(fields[0]); ok {
				see(list.at(major, minor), fields[1], value(fields[2]))
			}
		}
	}
	each(bytes, func(d *DeviceIO, op string, n uint64) {
		switch op {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	})
	each(ops, func(d *DeviceIO, op string, n uint64) {
		switch op {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	})
	return list
}
