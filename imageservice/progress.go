package imageservice

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Stage is what a pull, or one of its layers, is doing or waiting for. It is text for
// people.
type Stage string

// Stages of a pull; while it is at its layers, they have some of their own.
const (
	StageResolving  Stage = "asking the registry"
	StageReading    Stage = "reading the archive" // of an import
	StageLayers     Stage = "layers"
	StageSealing    Stage = "sealing"
	StageCommitting Stage = "committing"
)

// Stages of a layer.
const (
	StagePending     Stage = "" // others of its pull come first
	StageQueued      Stage = "waiting for a slot (image.parallel_layers)"
	StageShared      Stage = "waiting for another pull"
	StageConnecting  Stage = "waiting for the registry"
	StageDownloading Stage = "downloading"
	StageUnpacking   Stage = "unpacking"
	StageSyncing     Stage = "syncing"
	StagePacking     Stage = "packing"   // to push it
	StageUploading   Stage = "uploading" // the same
	StageDone        Stage = "done"
)

// Progress is how far a pull under way has come. Bytes are those of layers as
// they are compressed; a layer that is there already counts as done. Total is 0
// until the manifest is known.
type Progress struct {
	Image        string // full name
	Work         string // "pulling", "importing" or "pushing"
	Since        time.Time
	Bytes, Total int64
	Layers, Done int // layers in all, layers finished
	Stage        Stage
	Unfinished   []LayerProgress // in the manifest's order
	For          []string        // who asked for it, PullRequest.For, sorted
}

// LayerProgress is what a layer that is not finished is doing.
type LayerProgress struct {
	Blob       digest.Digest
	Size       int64 // bytes, as the registry has it
	Stage      Stage
	Host       string // where it comes from, "" while that is not known
	WaitingFor string // with StageShared, the image whose pull transfers it for both
}

// activity orders the stages of a layer by how much they say of its pull.
var activity = []Stage{StageQueued, StageShared, StageConnecting, StageSyncing, StageUnpacking, StagePacking, StageDownloading, StageUploading}

// Doing is a line's worth of text for people: the stage, or what the most active layer is at.
func (p Progress) Doing() string {
	best, rank := string(p.Stage), -1
	for _, l := range p.Unfinished {
		if r := slices.Index(activity, l.Stage); r > rank {
			best, rank = l.Doing(), r
		}
	}
	return best
}

// Doing is the stage, with whom it is about, as text for people.
func (l LayerProgress) Doing() string {
	switch {
	case l.WaitingFor != "":
		return "waiting for the pull of " + l.WaitingFor
	case l.Host != "" && l.Stage == StageDownloading:
		return "downloading from " + l.Host
	case l.Host != "" && l.Stage == StageUploading:
		return "uploading to " + l.Host
	}
	return string(l.Stage)
}

// pullProgress is a pull's counters.
type pullProgress struct {
	image  string
	work   string // "pulling", "importing" or "pushing"
	since  time.Time
	bytes  atomic.Int64
	total  atomic.Int64
	layers atomic.Int32
	done   atomic.Int32
	step   atomic.Pointer[Stage]
	parts  atomic.Pointer[parts]
	spent  spent
}

// parts are the layers of a pull. The map is not changed once it is there.
type parts struct {
	order []*part
	by    map[digest.Digest]*part // by blob
}

type part struct {
	blob  digest.Digest
	size  int64
	stage atomic.Pointer[Stage]
	host  atomic.Pointer[func() string]
}

// begin notes what there is to fetch.
func (p *pullProgress) begin(doc document) {
	p.total.Store(doc.layerBytes())
	p.layers.Store(int32(len(doc.layers)))
	all := &parts{by: map[digest.Digest]*part{}}
	for _, l := range doc.layers {
		if all.by[l.Digest] == nil {
			one := &part{blob: l.Digest, size: l.Size}
			all.by[l.Digest] = one
			all.order = append(all.order, one)
		}
	}
	p.parts.Store(all)
	p.now(StageLayers)
}

// now notes what the pull does.
func (p *pullProgress) now(s Stage) { p.step.Store(&s) }

// stage notes what the layer of a blob does. Of one that the pull does not have, nothing is noted.
func (p *pullProgress) stage(blob digest.Digest, s Stage) {
	if all := p.parts.Load(); all != nil && all.by[blob] != nil {
		all.by[blob].stage.Store(&s)
	}
}

// from notes who knows which host sends a blob, or takes it.
func (p *pullProgress) from(blob digest.Digest, host func() string) {
	if all := p.parts.Load(); all != nil && all.by[blob] != nil {
		all.by[blob].host.Store(&host)
	}
}

func load[T any](p *atomic.Pointer[T]) (v T) {
	if at := p.Load(); at != nil {
		v = *at
	}
	return v
}

// snapshot is p as it is now.
func (p *pullProgress) snapshot() Progress {
	out := Progress{
		Image: p.image, Work: p.work, Since: p.since, Bytes: p.bytes.Load(), Total: p.total.Load(),
		Layers: int(p.layers.Load()), Done: int(p.done.Load()), Stage: load(&p.step),
	}
	all := p.parts.Load()
	if all == nil || out.Stage != StageLayers {
		return out
	}
	for _, one := range all.order {
		l := LayerProgress{Blob: one.blob, Size: one.size, Stage: load(&one.stage)}
		if host := load(&one.host); host != nil {
			l.Host = host()
		}
		if l.Stage != StageDone {
			out.Unfinished = append(out.Unfinished, l)
		}
	}
	return out
}

// transfers tells whether a layer is on its way, not waiting for somebody else's transfer.
func (l LayerProgress) transfers() bool { return l.Stage != StagePending && l.Stage != StageShared }

// progressList is the pulls under way, and who asked for them. The zero value is ready.
type progressList struct {
	mu    sync.Mutex
	pulls map[*pullProgress]bool
	asked map[string]map[string]int // by image, how many calls for whom
}

func (l *progressList) add(p *pullProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pulls == nil {
		l.pulls = map[*pullProgress]bool{}
	}
	l.pulls[p] = true
}

func (l *progressList) remove(p *pullProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pulls, p)
}

// ask notes that somebody waits for an image, until the result is called.
func (l *progressList) ask(image, who string) (gone func()) {
	if who == "" {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked == nil {
		l.asked = map[string]map[string]int{}
	}
	if l.asked[image] == nil {
		l.asked[image] = map[string]int{}
	}
	l.asked[image][who]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.asked[image][who]--; l.asked[image][who] == 0 {
			delete(l.asked[image], who)
		}
		if len(l.asked[image]) == 0 {
			delete(l.asked, image)
		}
	}
}

func (l *progressList) list() []Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Progress
	for p := range l.pulls {
		one := p.snapshot()
		one.For = slices.Sorted(maps.Keys(l.asked[p.image]))
		out = append(out, one)
	}
	return out
}

// Progress lists the pulls, imports and pushes under way by name. It is cheap.
func (s *Service) Progress() []Progress {
	out := s.progress.list()
	slices.SortFunc(out, func(a, b Progress) int { return strings.Compare(a.Image, b.Image) })
	moving := map[digest.Digest]string{}
	for _, p := range out {
		for _, l := range p.Unfinished {
			if l.transfers() {
				moving[l.Blob] = p.Image
			}
		}
	}
	for _, p := range out {
		for i, l := range p.Unfinished {
			if l.Stage == StageShared {
				p.Unfinished[i].WaitingFor = moving[l.Blob]
			}
		}
	}
	return out
}
