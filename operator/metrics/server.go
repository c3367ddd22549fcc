package metrics

import (
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// Limits of what scrapers may take: they need not be friends.
const (
	maxConnections = 16              // more wait to be accepted
	maxScrapes     = 4               // more are answered with 503
	scrapeLimit    = 5 * time.Second // for collecting; then 503
	requestLimit   = 5 * time.Second // for sending a request
	answerLimit    = 10 * time.Second
	idleLimit      = 2 * time.Minute // between the scrapes of one connection
	maxHeader      = 8 << 10         // bytes
)

// A Server serves Metrics. Close it.
type Server struct {
	http http.Server
	done sync.WaitGroup
}

// Serve serves the figures on l, which the server closes: /metrics and nothing else.
func (m *Metrics) Serve(l net.Listener) *Server {
	s := m.server()
	s.start(l)
	return s
}

func (m *Metrics) server() *Server {
	mux := http.NewServeMux()
	// OpenMetrics is not offered: there, berth_pull_bytes and berth_pull_bytes_total would be one family.
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: log.Default(), ErrorHandling: promhttp.ContinueOnError, DisableCompression: true,
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeLimit,
	}))
	return &Server{http: http.Server{
		Handler: mux, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: requestLimit, ReadTimeout: requestLimit,
		WriteTimeout: answerLimit, IdleTimeout: idleLimit,
	}}
}

func (s *Server) start(l net.Listener) {
	s.done.Go(func() {
		if err := s.http.Serve(netutil.LimitListener(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("Metrics are not served any more: %v", err)
		}
	})
}

// Close ends all scrapes and stops listening. It may be repeated; a nil server is closed.
func (s *Server) Close() {
	if s == nil {
		return
	}
	s.http.Close()
	s.done.Wait()
}
