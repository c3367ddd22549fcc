package api

import (
	"strings"
	"testing"
)

func TestMeet(t *testing.T) {
	for _, tt := range []struct {
		info *ShimInfo
		want uint32
		err  string
	}{
		{nil, 1, ""},
		{&ShimInfo{Protocol: Protocol, OldestProtocol: OldestProtocol}, Protocol, ""},
		{&ShimInfo{Protocol: Protocol + 5, OldestProtocol: Protocol}, Protocol, ""},
		{&ShimInfo{Protocol: Protocol + 5, OldestProtocol: Protocol + 1}, 0, "install the release"},
	} {
		got, err := Meet(tt.info.Range())
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%v: %d, %v", tt.info, got, err)
		}
	}
}

// A record of a later release is read as far as it is known.
func TestLaterRecord(t *testing.T) {
	path := t.TempDir() + "/r.json"
	if err := WriteRecord(path, map[string]any{"version": 9, "id": "c1", "pid": 7, "novelty": map[string]int{"a": 1}}); err != nil {
		t.Fatal(err)
	}
	rec, err := ReadTask(path)
	if err != nil || rec.Version != 9 || rec.ID != "c1" || rec.Pid != 7 {
		t.Errorf("%+v, %v", rec, err)
	}
}
