package spec

import (
	"bytes"
	"iter"
	"slices"
	"strings"
)

// Bounds on an image's passwd and group files (CVE-2026-47262), in bytes.
const (
	maxUserFile = 4 << 20
	maxName     = 256
	maxHome     = 4096
)

// A userEntry is a line of a passwd file.
type userEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// A groupEntry is a line of a group file. members is not copied.
type groupEntry struct {
	name    string
	gid     uint32
	members []byte
}

// has tells whether name is a member, in one pass without a list.
func (g groupEntry) has(name string) bool {
	for m := range bytes.SplitSeq(g.members, []byte(",")) {
		if string(m) == name {
			return true
		}
	}
	return false
}

// findUser gives the first good line that match takes.
func findUser(passwd []byte, match func(userEntry) bool) (userEntry, bool) {
	for line := range bytes.Lines(passwd) {
		f := bytes.SplitN(trimLine(line), []byte(":"), 8) // name:password:uid:gid:gecos:home:shell
		if len(f) < 4 || len(f) > 7 {
			continue
		}
		e, ok := parseUser(f)
		if ok && match(e) {
			return e, true
		}
	}
	return userEntry{}, false
}

// parseUser reads a line's fields. One that is wrong spoils the line, apart from the
// home directory, which becomes "/".
func parseUser(f [][]byte) (userEntry, bool) {
	name, okName := parseName(f[0])
	uid, okUID := parseField(f[2])
	gid, okGID := parseField(f[3])
	e := userEntry{name: name, uid: uid, gid: gid, home: "/"}
	if len(f) > 5 && validHome(f[5]) {
		e.home = string(f[5])
	}
	return e, okName && okUID && okGID
}

// groups gives the good lines of a group file.
func groups(group []byte) iter.Seq[groupEntry] {
	return func(yield func(groupEntry) bool) {
		for line := range bytes.Lines(group) {
			f := bytes.SplitN(trimLine(line), []byte(":"), 5) // name:password:gid:members
			if len(f) < 3 || len(f) > 4 {
				continue
			}
			name, okName := parseName(f[0])
			gid, okGID := parseField(f[2])
			if !okName || !okGID {
				continue
			}
			g := groupEntry{name: name, gid: gid}
			if len(f) > 3 {
				g.members = f[3]
			}
			if !yield(g) {
				return
			}
		}
	}
}

func trimLine(line []byte) []byte { return bytes.TrimSuffix(line, []byte("\n")) }

// parseName reads a name. One that is all digits could not be told from an ID.
func parseName(b []byte) (string, bool) {
	if len(b) > maxName {
		return "", false
	}
	s := string(b)
	return s, checkUser(s) == nil && !allDigits(s)
}

func parseField(b []byte) (uint32, bool) {
	if len(b) > 32 {
		return 0, false
	}
	s := string(b)
	if !allDigits(s) {
		return 0, false
	}
	id, err := parseID(s)
	return id, err == nil
}

// validHome refuses what would be another variable, or another line, wherever the
// home directory is written (CVE-2026-15809).
func validHome(b []byte) bool {
	return len(b) > 0 && len(b) <= maxHome && b[0] == '/' &&
		!slices.ContainsFunc(b, func(c byte) bool { return c < ' ' || c == 0x7f }) &&
		!strings.Contains(string(b), ":")
}
