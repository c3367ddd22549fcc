package imageservice

import (
	"time"

	"github.com/berthd/berth/snapshot/durable"
)

// Ended is a pull that has ended: one transfer, however many asked for it.
type Ended struct {
	Err      error // nil: the image is here
	Present  bool  // it was before, and only the registry's leave was asked for
	DiskFull bool  // Err is for want of space
	Took     time.Duration
	Stages   []StageTime
}

// A StageTime is how long something took in a pull, summed over its layers, which are worked on
// side by side. Names are a fixed few; a stage that there was not took no time.
type StageTime struct {
	Name string
	Took time.Duration
}

// tell tells that a pull has ended.
func (s *Service) tell(p *pullProgress, err error) {
	if s.ended != nil {
		s.ended(Ended{Err: err, Present: p.present, DiskFull: durable.IsFull(err), Took: time.Since(p.since), Stages: p.spent.stages()})
	}
}

// Received is how many bytes of layers registries have sent since Open, those that had to
// come again included.
func (s *Service) Received() int64 { return s.downloads.Received() }

// Measured is the latest measurement of Usage, without what is under way. It waits for nothing.
func (s *Service) Measured() FsUsage { return *s.usage.Load() }

// Downloads is what blobs under way, and parts of blobs of earlier times, take on disk: bytes
// allocated. It reads a folder.
func (s *Service) Downloads() (uint64, error) {
	bytes, _, err := s.downloads.Usage()
	return bytes, err
}
