package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthd/berth/imageservice"
)

// Sources are asked at every scrape. None may wait.
type Sources struct {
	Images     *imageservice.Service
	Pods       func() map[string]int  // how many, by state; every state that there is
	Containers func() map[string]int  // the same
	Owed       func() int             // addresses that CNI plugins have not taken back
	Ready      func() map[string]bool // by condition
	Shims      func() map[string]int  // processes that keep containers, by the version of their release
}

// Attach has the figures tell of s too. It is called once.
func (m *Metrics) Attach(s Sources) {
	if m != nil {
		m.registry.MustRegister(&nodeCollector{sources: s}, &pullCollector{images: s.Images})
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// What is told of the node.
var (
	podsDesc       = describe("berth_pods", "Pods that are listed.", "state")
	containersDesc = describe("berth_containers", "Containers that are listed.", "state")
	owedDesc       = describe("berth_addresses_owed", "Addresses of pods that a CNI plugin has not taken back yet.")
	shimsDesc      = describe("berth_shims", "Processes that keep containers. Another version than berthd's has yet to be upgraded; \"\" does not say.", "version")
	readyDesc      = describe("berth_ready", "1 when kubelet is told that the condition holds, else 0.", "condition")
	imagesDesc     = describe("berth_images", "Images that are here.")
	imageBytesDesc = describe("berth_image_bytes", "Disk space of images, layers and documents together, when it was measured after the last pull or removal.")
	downloadsDesc  = describe("berth_download_bytes", "Disk space of layers on their way, and of parts of earlier ones that are kept.")
	receivedDesc   = describe("berth_pull_bytes_total", "Bytes of layers that registries have sent, those that had to come again included.")
)

// A nodeCollector tells of pods, conditions and images.
type nodeCollector struct {
	sources   Sources
	downloads lastKnown
}

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsDesc, containersDesc, owedDesc, shimsDesc, readyDesc, imagesDesc, imageBytesDesc, downloadsDesc, receivedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range c.sources.Pods() {
		gauge(podsDesc, float64(n), state)
	}
	for state, n := range c.sources.Containers() {
		gauge(containersDesc, float64(n), state)
	}
	for condition, ok := range c.sources.Ready() {
		v := 0.
		if ok {
			v = 1
		}
		gauge(readyDesc, v, condition)
	}
	for version, n := range c.sources.Shims() {
		gauge(shimsDesc, float64(n), version)
	}
	gauge(owedDesc, float64(c.sources.Owed()))
	images := c.sources.Images
	gauge(imagesDesc, float64(len(images.List())))
	gauge(imageBytesDesc, float64(images.Measured().Bytes))
	if bytes, ok := c.downloads.get(diskLimit, images.Downloads); ok {
		gauge(downloadsDesc, float64(bytes))
	}
	to <- prometheus.MustNewConstMetric(receivedDesc, prometheus.CounterValue, float64(images.Received()))
}

// diskLimit is how long a scrape waits for the disk. Then it tells what it knew.
const diskLimit = time.Second

// lastKnown is a figure that is read from the disk, by one at a time.
type lastKnown struct {
	mu    sync.Mutex
	value uint64
	known bool
	under chan struct{} // closed when the reading under way ends; nil: there is none
}

// get reads the figure, or returns the last one when that fails or takes too long. ok is
// false when there is none.
func (l *lastKnown) get(limit time.Duration, read func() (uint64, error)) (value uint64, ok bool) {
	l.mu.Lock()
	if l.under == nil {
		l.under = make(chan struct{})
		go l.read(read)
	}
	under := l.under
	l.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-under:
	case <-timer.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value, l.known
}

func (l *lastKnown) read(read func() (uint64, error)) {
	value, err := read()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.value, l.known = value, true
	}
	close(l.under)
	l.under = nil
}
