package installation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// RecordPath is the file, under the root, that says what was installed.
const RecordPath = "/etc/berth/installed.json"

// A record is what was installed, paths as they are on the node.
type record struct {
	// Files has the checksums that a file may have and be ours: two while it is
	// being replaced. A symbolic link's is that of its target.
	Files map[string][]string `json:"files"`
	// Folders are those that were made for the files, parents first.
	Folders []string `json:"folders"`
}

// load reads the record; there may be none.
func (n *node) load() error {
	n.rec = record{Files: map[string][]string{}}
	path, err := n.place(RecordPath)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &n.rec)
	}
	if err != nil {
		return fmt.Errorf("record of what is installed: %s: %w", RecordPath, err)
	}
	if n.rec.Files == nil {
		n.rec.Files = map[string][]string{}
	}
	return nil
}

// save writes the record.
func (n *node) save() error {
	data, err := json.MarshalIndent(n.rec, "", "  ")
	if err != nil {
		return err
	}
	return n.write(RecordPath, append(data, '\n'), 0o644)
}

// wrote tells whether the content of the file at path is what we put there.
func (r record) wrote(path string, content []byte) bool {
	return slices.Contains(r.Files[path], sum(content))
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}
