package container

import (
	"errors"
	"testing"
)

// A compilation that failed once is tried again.
func TestFilterFailure(t *testing.T) {
	tries := 0
	f := NewFilters(func(func() error) error {
		tries++
		return errors.New("no process to be had")
	})
	for range 2 {
		if file := f.get(t.Context(), []byte("{}")); file != nil {
			t.Error("a filter")
		}
	}
	if tries != 2 || len(f.known) != 0 {
		t.Errorf("%d tries, %d kept", tries, len(f.known))
	}
}
