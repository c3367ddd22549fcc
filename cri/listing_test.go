package cri

import (
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestListing: a list is made again when something has changed and at no other time, newest
// first, and what is asked for of it is what was put in.
func TestListing(t *testing.T) {
	type thing struct {
		id   string
		made int64
	}
	var changes atomic.Uint64
	things := []*thing{{"b", 1}, {"c", 2}, {"a", 1}}
	looks := 0
	l := &listing[thing]{changes: changes.Load, look: func() (rows []*row[thing]) {
		looks++
		for _, th := range things {
			rows = append(rows, newRow(th, th.id, th.made, &runtimeapi.PodSandbox{Id: th.id, Labels: map[string]string{"of": th.id}}))
		}
		return rows
	}}
	list := func(keep func(*thing) bool) (ids []string) {
		t.Helper()
		fields, err := l.fields(keep)
		if err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(withFields(&runtimeapi.ListPodSandboxResponse{}, fields))
		if err != nil {
			t.Fatal(err)
		}
		var resp runtimeapi.ListPodSandboxResponse
		if err := proto.Unmarshal(data, &resp); err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.GetItems() {
			if ids = append(ids, p.GetId()); p.GetLabels()["of"] != p.GetId() {
				t.Errorf("%+v", p)
			}
		}
		return ids
	}
	if got := list(nil); !slices.Equal(got, []string{"c", "a", "b"}) || looks != 1 {
		t.Errorf("%q after %d looks", got, looks)
	}
	if got := list(func(th *thing) bool { return th.made == 1 }); !slices.Equal(got, []string{"a", "b"}) || looks != 1 {
		t.Errorf("a part: %q after %d looks", got, looks)
	}
	if n := testing.AllocsPerRun(10, func() { _, _ = l.fields(nil) }); n != 0 || looks != 1 {
		t.Errorf("%v allocations, %d looks at what has not changed", n, looks)
	}
	things = things[1:2]
	changes.Add(1)
	if got := list(nil); !slices.Equal(got, []string{"c"}) || looks != 2 {
		t.Errorf("%q after %d looks", got, looks)
	}
	things = append(things, &thing{"\xff", 3}) // no UTF-8
	changes.Add(1)
	if _, err := l.fields(nil); err == nil {
		t.Error("an item that cannot be encoded is no error")
	}
}
