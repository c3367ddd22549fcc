package stream

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestCappedValue decodes values that fit and one that never ends.
func TestCappedValue(t *testing.T) {
	endless := strings.NewReader("{} {} \"" + strings.Repeat("x", 1<<20))
	in := &capped{Reader: endless}
	d := json.NewDecoder(in)
	for i := range 3 {
		in.left = maxSize
		var v any
		if err := d.Decode(&v); (err == nil) != (i < 2) {
			t.Errorf("value %d: %v", i, err)
		}
	}
	if read := 1<<20 + 7 - endless.Len(); read > 3*maxSize {
		t.Errorf("%d bytes were taken", read)
	}
}
