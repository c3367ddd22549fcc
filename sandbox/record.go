package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/berthd/berth/snapshot/durable"
)

// errDamaged marks a record that is torn or was changed by hand. What it named
// is swept by ID.
var errDamaged = errors.New("record damaged")

// maxRecord bounds a record file that is read back, in bytes. kubelet's own
// limit for a whole message is 16 MiB.
const maxRecord = 32 << 20

// envelope is a record on disk: the checksum finds torn writes after a power
// cut, since records are written without fsync (design: nothing on a pod's path
// waits for the disk).
type envelope struct {
	Sum    string          `json:"sha256"`
	Record json.RawMessage `json:"record"`
}

// saveRecord replaces the record at path.
func saveRecord(path string, rec any) error {
	body, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record %s: %w", path, err)
	}
	data, err := json.Marshal(envelope{Sum: checksum(body), Record: body})
	if err != nil {
		return fmt.Errorf("record %s: %w", path, err)
	}
	if err := durable.Replace(path, data, 0o600); err != nil {
		return fmt.Errorf("record %s: %w", path, err)
	}
	return nil
}

// loadRecord reads the record at path into rec, or returns errDamaged.
func loadRecord(path string, rec any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return fmt.Errorf("record %s: %w", path, err)
	}
	var env envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return fmt.Errorf("record %s: %w: %w", path, errDamaged, err)
	}
	if env.Sum != checksum(env.Record) {
		return fmt.Errorf("record %s: %w: checksum does not match", path, errDamaged)
	}
	if err := json.Unmarshal(env.Record, rec); err != nil {
		return fmt.Errorf("record %s: %w: %w", path, errDamaged, err)
	}
	return nil
}

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// A cell holds one record: on disk, and in memory as a value behind an atomic
// pointer. Readers take no lock and never wait for the disk.
type cell[R any] struct {
	path string

	mu  sync.Mutex // orders writers; held across a write to the page cache, never across a sync
	now atomic.Pointer[version[R]]

	// changes and listed count changes once they are seen: of a pod, with its containers,
	// and of all that are listed together. nil: nobody wants to know.
	changes, listed *atomic.Uint64
}

// A version is a record as it is until the next one, and what Made keeps with it.
type version[R any] struct {
	rec  R
	made atomic.Value
}

// Record returns the record as it is now. What it points to must not be changed.
func (c *cell[R]) Record() R { return c.now.Load().rec }

// Made returns what of makes of the record as it is now, and keeps it until the record
// changes: who asks again and again pays once. of is always the same function, called by
// several at once maybe; neither what it gets nor what it returns may be changed.
func (c *cell[R]) Made(of func(*R) any) any {
	v := c.now.Load()
	if made := v.made.Load(); made != nil {
		return made
	}
	made := of(&v.rec)
	v.made.Store(made)
	return made
}

// set lets another record be seen.
func (c *cell[R]) set(rec R) {
	v := &version[R]{rec: rec}
	c.now.Store(v)
	for _, count := range [...]*atomic.Uint64{c.changes, c.listed} {
		if count != nil {
			count.Add(1)
		}
	}
}

// update changes the record by edit, which may refuse. A change that promises
// is saved before it is seen, and not seen when it cannot be saved.
func (c *cell[R]) update(promise bool, edit func(*R) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.Record()
	if err := edit(&rec); err != nil {
		return err
	}
	if err := saveRecord(c.path, rec); err != nil && promise {
		return err
	}
	c.set(rec)
	return nil
}
