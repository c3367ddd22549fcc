package metrics

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestOnlyMetrics: nothing else is served, and nothing can be sent.
func TestOnlyMetrics(t *testing.T) {
	b := newBench(t)
	b.serve(t)
	base := strings.TrimSuffix(b.url, "/metrics")
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200}, {"POST", "/metrics", 405}, {"GET", "/", 404}, {"GET", "/metrics/x", 404}, {"GET", "/debug/pprof/", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, base+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, resp.StatusCode, tt.want)
		}
	}
}

// verbose is a collector of more than a connection's buffers hold, which says when it is asked
// and waits for leave.
type verbose struct {
	desc          *prometheus.Desc
	asked, answer chan struct{}
}

func (v *verbose) Describe(to chan<- *prometheus.Desc) { to <- v.desc }

func (v *verbose) Collect(to chan<- prometheus.Metric) {
	v.asked <- struct{}{}
	<-v.answer
	for i := range 40 {
		to <- prometheus.MustNewConstMetric(v.desc, prometheus.GaugeValue, 1, strings.Repeat("x", 256<<10)+fmt.Sprint(i))
	}
}

// TestUnreadAnswers: scrapers that never read, as many as are let in, keep the others waiting no longer
// than an answer may take, and scrapes beyond those at a time are refused.
func TestUnreadAnswers(t *testing.T) {
	b := newBench(t)
	v := &verbose{prometheus.NewDesc("berth_test", "x", []string{"x"}, nil), make(chan struct{}), make(chan struct{})}
	b.registry.MustRegister(v)
	if b.server.http.WriteTimeout != answerLimit || answerLimit <= scrapeLimit || b.server.http.ReadHeaderTimeout != requestLimit || b.server.http.MaxHeaderBytes != maxHeader {
		t.Error("not the limits that are meant")
	}
	b.server.http.WriteTimeout = 3 * time.Second // so that the test is soon over
	closed := make(chan struct{}, 100)
	b.server.http.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			closed <- struct{}{}
		}
	}
	b.serve(t)
	addr := strings.TrimSuffix(strings.TrimPrefix(b.url, "http://"), "/metrics")
	open := func() net.Conn {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for range maxScrapes {
		open()
		<-v.asked
	}
	for range maxConnections - maxScrapes {
		resp, err := http.ReadResponse(bufio.NewReader(open()), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("one more at a time: %s", resp.Status)
		}
	}
	waiting := open() // is not accepted yet
	for range maxScrapes {
		v.answer <- struct{}{}
	}
	for range maxScrapes { // nobody reads
		<-closed
	}
	<-v.asked
	v.answer <- struct{}{}
	resp, err := http.ReadResponse(bufio.NewReader(waiting), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("after those that never read: %s", resp.Status)
	}
}

// TestClose ends what is open, and may be repeated.
func TestClose(t *testing.T) {
	b := newBench(t)
	b.serve(t)
	b.text(t)
	b.server.Close()
	b.server.Close()
	if resp, err := b.client.Get(b.url); err == nil {
		resp.Body.Close()
		t.Error("still served")
	}
	var none *Server
	none.Close()
}

// TestLastKnown: a disk that hangs costs a scrape its limit, one goroutine, and no figure that
// was there before.
func TestLastKnown(t *testing.T) {
	l, hang := &lastKnown{}, make(chan struct{})
	hangs := func() (uint64, error) { <-hang; return 7, nil }
	for range 3 {
		if v, ok := l.get(0, hangs); ok {
			t.Error(v)
		}
	}
	close(hang)
	if v, ok := l.get(time.Hour, hangs); v != 7 || !ok {
		t.Error(v, ok)
	}
	if v, ok := l.get(time.Hour, func() (uint64, error) { return 8, errors.New("x") }); v != 7 || !ok {
		t.Error(v, ok)
	}
	hang = make(chan struct{})
	if v, ok := l.get(0, hangs); v != 7 || !ok {
		t.Error(v, ok)
	}
	close(hang)
	l.get(time.Hour, hangs)
}
