package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/berthd/berth/crashpoint"
)

const (
	// hostLocalDir is where host-local's networks are unless its configuration says otherwise.
	hostLocalDir = "/var/lib/cni/networks"
	// lastReserved begins the name of the file with the last address given of a set of ranges.
	lastReserved = "last_reserved_ip."
	// lockPoll is how often a lock is tried that a plugin's program has.
	lockPoll = 2 * time.Millisecond
)

// reservations has a place for each folder that this process works in.
type reservations struct{ places sync.Map } // folder to chan struct{}, of one place

// A reservation is host-local's folder of one network, locked. A file stands for each
// address that is taken; it is named by it and holds the container's ID and the interface,
// in a line each. Package disk of host-local does the same, but writes a file after it has made it,
// so that a crash between loses the address for good; and waits for the lock however long it takes.
//
// It is a backend.Store of host-local's package allocator, whose Lock and Unlock have nothing to
// do: all is done under one lock.
type reservation struct {
	dir   string
	lock  *os.File
	place chan struct{}
}

// open makes the folder of a network, if need be, and locks it.
func (r *reservations) open(ctx context.Context, dataDir, network string) (*reservation, error) {
	if dataDir == "" {
		dataDir = hostLocalDir
	}
	dir := filepath.Join(dataDir, network)
	p, _ := r.places.LoadOrStore(dir, make(chan struct{}, 1))
	place := p.(chan struct{})
	select {
	case place <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("addresses in %s: waiting for other pods: %w", dir, context.Cause(ctx))
	}
	lock, err := lockFolder(ctx, dir)
	if err != nil {
		<-place
		return nil, fmt.Errorf("addresses in %s: %w", dir, err)
	}
	return &reservation{dir, lock, place}, nil
}

func lockFolder(ctx context.Context, dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDONLY, 0o750)
	if err != nil {
		return nil, err
	}
	for {
		held, err := tryLock(lock)
		if err == nil && !held {
			return lock, nil
		}
		if err == nil {
			err = wait(ctx, lockPoll)
		}
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("its lock: %w", err)
		}
	}
}

// wait returns nil after d, or an error when ctx ends before.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Lock does nothing: open has locked.
func (r *reservation) Lock() error { return nil }

// Unlock does nothing: Close unlocks.
func (r *reservation) Unlock() error { return nil }

// Close gives the lock back.
func (r *reservation) Close() error {
	err := r.lock.Close()
	<-r.place
	return err
}

// key is what a file of a container's interface holds.
func key(id, ifName string) string { return strings.TrimSpace(id) + "\r\n" + ifName }

// Reserve takes an address for a container, unless it is taken.
func (r *reservation) Reserve(id, ifName string, ip net.IP, rangeID string) (bool, error) {
	path := filepath.Join(r.dir, ip.String())
	if _, err := os.Lstat(path); err == nil {
		return false, nil
	}
	crashpoint.At("reserve", "address")
	created, err := createWhole(path, []byte(key(id, ifName)), 0o600)
	if err != nil || !created {
		return false, err
	}
	crashpoint.At("reserved", "address")
	// Where a crash leaves it empty the next search begins at the first address.
	if err := os.WriteFile(filepath.Join(r.dir, lastReserved+rangeID), []byte(ip.String()), 0o600); err != nil {
		return false, oneLine(err, os.Remove(path))
	}
	return true, nil
}

// LastReservedIP is the address that was given last of a set of ranges; nil when nobody knows.
func (r *reservation) LastReservedIP(rangeID string) (net.IP, error) {
	data, err := os.ReadFile(filepath.Join(r.dir, lastReserved+rangeID))
	if err != nil {
		return nil, err
	}
	return net.ParseIP(string(data)), nil
}

// ReleaseByID gives back all addresses of a container's interface.
func (r *reservation) ReleaseByID(id, ifName string) error {
	names, err := r.held(id, ifName)
	errs := []error{err}
	for _, name := range names {
		crashpoint.At("release", "address")
		if err := os.Remove(filepath.Join(r.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return oneLine(errs...)
}

// GetByID lists the addresses of a container's interface.
func (r *reservation) GetByID(id, ifName string) (ips []net.IP) {
	now, old, err := r.read(id, ifName)
	if err != nil {
		return nil
	}
	for _, name := range append(now, old...) {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

// held lists the files of a container's interface or, when there are none, those of the
// container from before host-local wrote the interface.
func (r *reservation) held(id, ifName string) ([]string, error) {
	now, old, err := r.read(id, ifName)
	if len(now) == 0 {
		return old, err
	}
	return now, err
}

// read lists the files that have a container and its interface in them, and those that have the
// container alone.
func (r *reservation) read(id, ifName string) (now, old []string, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		data, err := readStart(filepath.Join(r.dir, e.Name()))
		if err != nil {
			continue // gone, or not for us to read
		}
		switch strings.TrimSpace(data) {
		case key(id, ifName):
			now = append(now, e.Name())
		case strings.TrimSpace(id):
			old = append(old, e.Name())
		}
	}
	return now, old, nil
}

// reservationLimit is more than a file of an address holds, in bytes.
const reservationLimit = 4 << 10

func readStart(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, reservationLimit)
	n, err := f.Read(buf)
	if n == 0 {
		return "", err
	}
	return string(buf[:n]), nil
}
