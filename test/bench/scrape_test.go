package bench_test

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/berthd/berth/test/bench"
)

func TestScrape(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	text := "# HELP a is a\na 1\nb{x=\"y z\",code=\"OK\"} 2.5e+06\nno number\n"
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" || text == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(text))
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	got, err := bench.Scrape(t.Context(), path)
	if err != nil || len(got) != 2 || got["a"] != 1 || got[`b{x="y z",code="OK"}`] != 2_500_000 {
		t.Errorf("%v, %v", got, err)
	}
	text = ""
	if _, err := bench.Scrape(t.Context(), path); err == nil {
		t.Error("no error where nothing is served")
	}
}
