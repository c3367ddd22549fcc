package tally

import (
	"io"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	in := `
{"Action":"run","Package":"a","Test":"TestGood"}
{"Action":"pass","Package":"a","Test":"TestGood"}
{"Action":"run","Package":"a","Test":"TestTable"}
{"Action":"run","Package":"a","Test":"TestTable/one"}
{"Action":"run","Package":"a","Test":"TestTable/two"}
{"Action":"output","Package":"a","Test":"TestTable/two","Output":"a_test.go:1: wrong\n"}
{"Action":"pass","Package":"a","Test":"TestTable/one"}
{"Action":"fail","Package":"a","Test":"TestTable/two"}
{"Action":"output","Package":"a","Test":"TestTable","Output":"--- FAIL: TestTable\n"}
{"Action":"fail","Package":"a","Test":"TestTable"}
{"Action":"run","Package":"a","Test":"TestRoot"}
{"Action":"output","Package":"a","Test":"TestRoot","Output":"a_test.go:9: needs root\n"}
{"Action":"skip","Package":"a","Test":"TestRoot"}
{"Action":"run","Package":"a","Test":"TestKernel"}
{"Action":"output","Package":"a","Test":"TestKernel","Output":"a_test.go:12: no cgroup v2\n"}
{"Action":"skip","Package":"a","Test":"TestKernel"}
{"Action":"fail","Package":"a"}
{"Action":"fail","Package":"does-not-build"}
`
	want := Tally{Passed: 2, Failed: 3, Skipped: 1}
	if got, err := Count(strings.NewReader(strings.TrimSpace(in)), io.Discard); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}
