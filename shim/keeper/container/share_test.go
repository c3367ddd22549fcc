package container

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// TestShare hands filters from one process's store to another's, and refuses what is none.
func TestShare(t *testing.T) {
	key, program := sha256.Sum256([]byte("profile")), bytes.Repeat([]byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, 3)
	for name, bad := range map[string]Filter{
		"without a key":             {Program: program},
		"empty":                     {Key: key[:]},
		"cut off":                   {Key: key[:], Program: program[:20]},
		"longer than any can be":    {Key: key[:], Program: make([]byte, maxFilter+8)},
		"with a key that is longer": {Key: append(key[:], 0), Program: program},
	} {
		f := NewFilters(nil)
		if err := f.Add([]Filter{bad}); err == nil {
			t.Errorf("a filter %s was taken", name)
		}
		if all, err := f.List(); len(all) > 0 || err != nil {
			t.Errorf("a filter %s was kept: %v, %v", name, all, err)
		}
	}
	f := NewFilters(nil) // which would panic if it had to compile
	for range 2 {
		if err := f.Add([]Filter{{key[:], program}}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := f.List()
	if err != nil || len(all) != 1 || !bytes.Equal(all[0].Key, key[:]) || !bytes.Equal(all[0].Program, program) {
		t.Fatalf("kept: %v, %v", all, err)
	}
	for _, calls := range []any{"first", "second"} {
		file, shared := f.get(t.Context(), []byte("profile"), calls)
		if file == nil || shared != "first" {
			t.Errorf("a container gets %v with %v", file, shared)
		}
	}
}
