package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthd/berth/imageservice"
)

// maxPulls bounds the values of the label image: the pulls that began first are told of.
const maxPulls = 64

// What is told of pulls under way. A pull that ends is not told of any more.
var (
	runningDesc    = describe("berth_pulls_running", "Pulls under way.")
	bytesDesc      = describe("berth_pull_bytes", "Of a pull under way: bytes of layers that are here, as they are compressed.", "image")
	expectedDesc   = describe("berth_pull_bytes_expected", "Of a pull under way: bytes of all its layers, 0 until its manifest has come.", "image")
	layersDesc     = describe("berth_pull_layers", "Of a pull under way: its layers.", "image")
	layersDoneDesc = describe("berth_pull_layers_done", "Of a pull under way: its layers that are finished.", "image")
	stageDesc      = describe("berth_pull_stage", "Of a pull under way: what it is at; while it is at its layers, how many of them are at each stage.", "image", "stage")
	silentDesc     = describe("berth_pull_seconds_since_bytes", "Of a pull under way that waits for a registry: how long nothing has come.", "image")
)

// stageLabels are the stages' labels: alerts outlive a better wording.
var stageLabels = map[imageservice.Stage]string{
	imageservice.StageResolving: "resolving", imageservice.StageLayers: "layers", imageservice.StageSealing: "sealing", imageservice.StageCommitting: "committing",
	imageservice.StagePending: "pending", imageservice.StageQueued: "queued", imageservice.StageShared: "shared", imageservice.StageConnecting: "connecting",
	imageservice.StageDownloading: "downloading", imageservice.StageUnpacking: "unpacking", imageservice.StageSyncing: "syncing",
}

// A pullCollector tells of pulls under way.
type pullCollector struct{ images *imageservice.Service }

// Describe implements prometheus.Collector.
func (c *pullCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{runningDesc, bytesDesc, expectedDesc, layersDesc, layersDoneDesc, stageDesc, silentDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *pullCollector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	all, shown := pulls(c.images.Progress())
	gauge(runningDesc, float64(all))
	for _, p := range shown {
		gauge(bytesDesc, float64(p.Bytes), p.Image)
		gauge(expectedDesc, float64(p.Total), p.Image)
		gauge(layersDesc, float64(p.Layers), p.Image)
		gauge(layersDoneDesc, float64(p.Done), p.Image)
		for stage, n := range stagesOf(p) {
			gauge(stageDesc, float64(n), p.Image, stage)
		}
		if waits(p) {
			gauge(silentDesc, max(time.Since(p.Moved), 0).Seconds(), p.Image)
		}
	}
}

// pulls counts the pulls in list and picks those to tell of, oldest first. Of several pulls of
// one image, with different credentials, the oldest is told of.
func pulls(list []imageservice.Progress) (all int, shown []imageservice.Progress) {
	list = slices.DeleteFunc(list, func(p imageservice.Progress) bool { return p.Work != "pulling" })
	all = len(list)
	slices.SortStableFunc(list, func(a, b imageservice.Progress) int { return a.Since.Compare(b.Since) })
	seen := map[string]bool{}
	for _, p := range list {
		if !seen[p.Image] && len(shown) < maxPulls {
			shown = append(shown, p)
		}
		seen[p.Image] = true
	}
	return all, shown
}

// stagesOf counts what a pull is at.
func stagesOf(p imageservice.Progress) map[string]int {
	stages := map[string]int{}
	for _, l := range p.Unfinished {
		stages[label(l.Stage)]++
	}
	if len(stages) == 0 {
		stages[label(p.Stage)] = 1
	}
	return stages
}

func label(s imageservice.Stage) string {
	if known, ok := stageLabels[s]; ok {
		return known
	}
	return "other"
}

// waits tells whether a registry is to send something.
func waits(p imageservice.Progress) bool {
	return p.Stage == imageservice.StageResolving || slices.ContainsFunc(p.Unfinished, func(l imageservice.LayerProgress) bool {
		return l.Stage == imageservice.StageConnecting || l.Stage == imageservice.StageDownloading
	})
}
