package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/crashpoint"
)

// A trash is a directory of things that are gone by name and not deleted yet. What is
// in it belongs to nobody.
type trash struct{ dir string }

// throw moves the thing at path into the trash under a name that begins with label. An
// absent one is fine.
func (t trash) throw(path, label string) error {
	crashpoint.At("throw away", path)
	err := os.Rename(path, filepath.Join(t.dir, label+"."+rand.Text()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	crashpoint.At("thrown away", path)
	return err
}

// empty deletes what is in the trash and whose name begins with label; "" is all.
// Several may run at once. It goes round again for what was moved out of deep trees.
func (t trash) empty(ctx context.Context, label string) error {
	dir, err := openAt(t.dir)
	if err != nil {
		return err
	}
	defer dir.close()
	flatten := func(from at, name string) error {
		err := from.rename(name, dir, label+".deep-"+rand.Text())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for {
		found, err := os.ReadDir(t.dir)
		if err != nil {
			return err
		}
		left := 0
		for _, e := range found {
			if !strings.HasPrefix(e.Name(), label) {
				continue
			}
			left++
			if err := removeTree(ctx, dir, e.Name(), flatten); err != nil {
				return fmt.Errorf("delete %s: %w", filepath.Join(t.dir, e.Name()), err)
			}
		}
		if left == 0 {
			return nil
		}
	}
}
