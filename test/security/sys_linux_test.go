package security

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// ownedBy expects a process's namespace of a kind to belong to that user namespace.
func ownedBy(t *testing.T, pid, kind, user string) {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || got != user {
		t.Errorf("%s namespace belongs to %s, %v; want %s", kind, got, err, user)
	}
}
