// Package metrics counts what berthd does, for Prometheus, and serves the figures at
// /metrics over plain HTTP. docs/operations.md lists them; a test compares.
//
// Figures are in memory alone and begin at zero with the process. A scrape looks at what is
// there: it takes no lock of a pod or a pull, waits for no disk longer than a second, and
// changes nothing on the node. Labels have few values: no pod, no container, and of images
// the names of at most 64 pulls under way. No error's text and no credential is in them.
//
// The package knows images (imageservice). What it is told of calls and stages comes through
// methods that package cri's and sandbox's observers are made of, and of pods and conditions
// through functions.
package metrics

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/berthd/berth/imageservice"
)

// Buckets, in seconds, by what there is to tell apart.
var (
	// From a status that is read from memory to a pull that takes an hour; kubelet's own limits
	// are 120 s and 240 s.
	callBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 240, 600, 1800, 3600}
	// From a record that is written to the limit of a creation.
	stageBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 240}
	// From a small image of a registry nearby to an hour.
	pullBuckets = []float64{.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600}
)

// Metrics is the figures. It is safe for concurrent use. A nil one takes what it is told and
// keeps nothing.
type Metrics struct {
	registry *prometheus.Registry

	calls         *prometheus.HistogramVec
	underWay      *prometheus.GaugeVec
	stages        *prometheus.HistogramVec
	stageFailures *prometheus.CounterVec

	pulls       *prometheus.CounterVec
	pullSeconds prometheus.Histogram
	pullStages  *prometheus.CounterVec
}

// New is figures of a daemon of that version, all zero.
func New(version string) *Metrics {
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_build_info",
		Help: "Always 1; the labels say what runs."}, []string{"version", "go_version"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_cri_seconds", Buckets: callBuckets,
			Help: "How long calls on berthd's socket took that have ended."}, []string{"method", "code"}),
		underWay: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_cri_calls",
			Help: "Calls on berthd's socket under way."}, []string{"method"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_stage_seconds", Buckets: stageBuckets,
			Help: "How long stages of creations, starts and removals took, failed ones included."}, []string{"object", "stage"}),
		stageFailures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_stage_failures_total",
			Help: "Stages of creations, starts and removals that failed."}, []string{"object", "stage"}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_pulls_total",
			Help: "Pulls that have ended; several calls that wait for one transfer are one."}, []string{"result"}),
		pullSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "berth_pull_seconds", Buckets: pullBuckets,
			Help: "How long pulls took that brought an image."}),
		pullStages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_pull_stage_seconds_total",
			Help: "Where the time of pulls that have ended went, summed over layers, which are worked on side by side."}, []string{"stage"}),
	}
	for _, r := range results {
		m.pulls.WithLabelValues(r.name)
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.calls, m.underWay, m.stages, m.stageFailures, m.pulls, m.pullSeconds, m.pullStages)
	return m
}

// methodName is a method's label: the CRI's by its own name, another service's with that.
func methodName(full string) string {
	full = strings.TrimPrefix(full, "/")
	if _, name, ok := strings.Cut(full, "/"); ok && strings.HasPrefix(full, "runtime.") {
		return name
	}
	return full
}

// CallBegan counts a call in. method is one of those that the server has.
func (m *Metrics) CallBegan(method string) {
	if m != nil {
		m.underWay.WithLabelValues(methodName(method)).Inc()
	}
}

// CallEnded counts it out. A code that gRPC has not is Unknown.
func (m *Metrics) CallEnded(method string, code codes.Code, took time.Duration) {
	if m == nil {
		return
	}
	if code > codes.Unauthenticated {
		code = codes.Unknown // another process, a proxy snapshotter's, may say anything
	}
	method = methodName(method)
	m.underWay.WithLabelValues(method).Dec()
	m.calls.WithLabelValues(method, code.String()).Observe(took.Seconds())
}

// Stage counts a stage that has ended. object and name are of a fixed few.
func (m *Metrics) Stage(object, name string, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.stages.WithLabelValues(object, name).Observe(took.Seconds())
	if failures := m.stageFailures.WithLabelValues(object, name); err != nil { // one that never fails is 0
		failures.Inc()
	}
}

// results are what a pull may come to. The first that fits counts; the first two and the last
// are no error of imageservice's.
var results = []struct {
	name string
	err  error
}{
	{"pulled", nil}, {"present", nil},
	{"canceled", context.Canceled},
	{"unauthorized", imageservice.ErrUnauthorized}, {"not_found", imageservice.ErrNotFound}, {"unavailable", imageservice.ErrUnavailable},
	{"config", imageservice.ErrConfig}, {"unsupported", imageservice.ErrUnsupported},
	{"too_large", imageservice.ErrTooLarge}, {"corrupt", imageservice.ErrCorrupt},
	{"disk_full", nil}, {"failed", nil},
}

func resultOf(e imageservice.Ended) string {
	switch {
	case e.Err == nil && e.Present:
		return "present"
	case e.Err == nil:
		return "pulled"
	case e.DiskFull:
		return "disk_full"
	}
	for _, r := range results {
		if r.err != nil && errors.Is(e.Err, r.err) {
			return r.name
		}
	}
	return "failed"
}

// PullEnded counts a pull.
func (m *Metrics) PullEnded(e imageservice.Ended) {
	if m == nil {
		return
	}
	result := resultOf(e)
	m.pulls.WithLabelValues(result).Inc()
	if result == "pulled" {
		m.pullSeconds.Observe(e.Took.Seconds())
	}
	for _, s := range e.Stages {
		m.pullStages.WithLabelValues(s.Name).Add(max(s.Took, 0).Seconds())
	}
}
