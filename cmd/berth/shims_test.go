package main

import (
	"bytes"
	"testing"
)

func TestPrintShims(t *testing.T) {
	var out bytes.Buffer
	printShims(&out, shimsOf(`[{"id":"a","version":"v2","protocol":2,"pods":3},{"id":"b","version":"v2","protocol":2,"pods":4},
		{"id":"c","protocol":1,"pods":1,"waits":"it stays"},{"id":"d","version":"v9","protocol":9,"pods":0,"problem":"it is\u001b new"}]`))
	want := "Shims\t2 of v2, protocol 2, pods: 7\nShims\t1 of an earlier release, protocol 1, pods: 1; not upgraded: it stays\nShims\t1 of v9, protocol 9, pods: 0; it is\uFFFD new\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if list := shimsOf("what another runtime says"); len(list) != 0 {
		t.Errorf("%v", list)
	}
}
