// Package quota counts folders by the project quota of the file system they are on, and
// limits them: ext4 and XFS, mounted with prjquota.
//
// A folder gets a project ID of its own, which all that is made below it inherits; what has
// the ID is then counted, and limited, by the file system. All is kept by the file system:
// the ID by the folder, the count and the limit by its quota entry. Owners and their IDs
// are remembered by the caller, who gives them back with Adopt after a restart.
//
// Every call may be repeated after a crash. An Assign of which nobody heard leaves an ID
// without a limit on folders that the caller deletes, and the ID is free when they are gone.
package quota

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
)

// The IDs that are given, IDs of them from First on. Others have theirs elsewhere: people and
// container engines count up from 1, kubelet from 1048577 (pkg/volume/util/fsquota), and
// systemd takes those from 2147483648 on (src/core/exec-invoke.c).
const (
	First = 1_600_000_000
	IDs   = 100_000
)

// ErrUnsupported says that the file system, as it is mounted, does not count projects.
var ErrUnsupported = errors.New("no project quota")

// ErrExhausted says that no ID is free.
var ErrExhausted = errors.New("no project ID is free")

// A Ledger is what a file system keeps of its projects.
type Ledger interface {
	// Enforced tells whether limits are kept.
	Enforced() (bool, error)
	// Entry is that of a project; the zero Entry when there is none.
	Entry(id uint32) (Entry, error)
	// SetLimit sets how many bytes a project may take, a multiple of 1024; 0 is any number.
	SetLimit(id uint32, bytes uint64) error
}

// An Entry is what is known of one project.
type Entry struct {
	Bytes, Inodes uint64 // allocated; inodes whose last name is gone count while they are open
	Limit         uint64 // in bytes; 0 is none
	Limited       bool   // by this limit or by another kind
}

// roundUp is a limit in the unit that the kernel is told it in (QIF_DQBLKSIZE).
func roundUp(bytes uint64) uint64 { return (bytes + limitBlock - 1) &^ (limitBlock - 1) }

func (e Entry) used() bool { return e.Bytes > 0 || e.Inodes > 0 || e.Limited }

// Projects gives owners IDs. It is safe for concurrent use; calls for one owner are for the
// caller to order.
type Projects struct {
	ledger   Ledger
	enforced bool
	reserved map[uint32]bool // by name, for others

	mu     sync.Mutex
	next   uint32 // offset of the ID to try next
	owners map[uint32]string
	ids    map[string]uint32
}

// Open tries whether folders in dir can be counted, by counting one. It is ErrUnsupported
// when they cannot, or when dir is counted by somebody else already.
func Open(dir string, ledger Ledger) (*Projects, error) {
	id, inherited, err := ProjectOf(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if inherited {
		return nil, fmt.Errorf("%s is counted as project %d, which would lose what is counted on its own: %w", dir, id, ErrUnsupported)
	}
	p := &Projects{ledger: ledger, next: rand.N[uint32](IDs), owners: make(map[uint32]string), ids: make(map[string]uint32)}
	if p.reserved, err = reservedIn("/etc/projid", "/etc/projects"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if p.enforced, err = ledger.Enforced(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err := p.try(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return p, nil
}

func (p *Projects) try(dir string) (err error) {
	probe, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	_, err = p.Assign(probe, probe)
	return errors.Join(err, p.Release(probe), os.Remove(probe))
}

// Enforced tells whether limits are kept.
func (p *Projects) Enforced() bool { return p.enforced }

// Ours tells whether id is one of those that Assign gives.
func Ours(id uint32) bool { return id >= First && id-First < IDs }

// Adopt gives owner the ID that Assign gave it before a restart. An ID that another owner
// has, or that is none of ours, is not given.
func (p *Projects) Adopt(owner string, id uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.owners[id]; !Ours(id) || ok && have != owner {
		return false
	}
	p.owners[id], p.ids[owner] = owner, id
	return true
}

// Assign counts the empty folders dirs together, as an owner's that has no ID yet, and gives
// the ID. On an error the owner has none. ErrExhausted.
func (p *Projects) Assign(owner string, dirs ...string) (uint32, error) {
	for range IDs {
		id, err := p.reserve(owner)
		if err != nil {
			return 0, err
		}
		ok, err := p.give(id, dirs)
		if ok && err == nil {
			return id, nil
		}
		p.forget(owner)
		if err != nil {
			return 0, err
		}
	}
	return 0, ErrExhausted
}

// reserve notes an ID that nobody uses as owner's.
func (p *Projects) reserve(owner string) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range IDs {
		id := First + p.next
		p.next = (p.next + 1) % IDs
		if _, ok := p.owners[id]; ok || p.reserved[id] {
			continue
		}
		entry, err := p.ledger.Entry(id)
		if err != nil {
			return 0, err
		}
		if entry.used() {
			continue
		}
		p.owners[id], p.ids[owner] = owner, id
		return id, nil
	}
	return 0, ErrExhausted
}

// give counts dirs to id. It is false when something else came to be counted to it too, by
// another daemon on the same file system: dirs can then be given to another ID.
func (p *Projects) give(id uint32, dirs []string) (bool, error) {
	for _, dir := range dirs {
		if err := setProject(dir, id); err != nil {
			return false, err
		}
	}
	entry, err := p.ledger.Entry(id)
	if err == nil && entry.Inodes < uint64(len(dirs)) {
		err = fmt.Errorf("%d of %d folders are counted to project %d: %w", entry.Inodes, len(dirs), id, ErrUnsupported)
	}
	return entry.Inodes == uint64(len(dirs)), err
}

func (p *Projects) forget(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owners, p.ids[owner])
	delete(p.ids, owner)
}

func (p *Projects) of(owner string) (uint32, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, ok := p.ids[owner]
	return id, ok
}

// Usage is what owner takes; false when it has no ID.
func (p *Projects) Usage(owner string) (entry Entry, ok bool, err error) {
	id, ok := p.of(owner)
	if ok {
		entry, err = p.ledger.Entry(id)
	}
	return entry, ok, err
}

// Limit sets how many bytes owner may take; 0 is any number. An owner without an ID, and a
// limit that is there already, are left alone.
func (p *Projects) Limit(owner string, bytes uint64) error {
	id, ok := p.of(owner)
	if !ok {
		return nil
	}
	return p.limit(id, bytes)
}

func (p *Projects) limit(id uint32, bytes uint64) error {
	entry, err := p.ledger.Entry(id)
	if bytes = roundUp(bytes); err != nil || entry.Limit == bytes {
		return err
	}
	return p.ledger.SetLimit(id, bytes)
}

// Release takes owner's ID and limit away. What is still counted to the ID keeps it from
// being given again. An owner without an ID is fine.
func (p *Projects) Release(owner string) error {
	err := p.Limit(owner, 0)
	if err == nil {
		p.forget(owner)
	}
	return err
}

// Free takes the limit away that an owner's ID was left with, when a crash came between the
// owner's end and Release. An ID that is none of ours, or that an owner has, is left alone.
func (p *Projects) Free(id uint32) error {
	p.mu.Lock()
	_, owned := p.owners[id]
	p.mu.Unlock()
	if owned || !Ours(id) {
		return nil
	}
	return p.limit(id, 0)
}

// Found is the ID that the folder dir was given; 0 when it has none of ours.
func Found(dir string) uint32 {
	id, inherited, err := ProjectOf(dir)
	if err != nil || !inherited || !Ours(id) {
		return 0
	}
	return id
}
