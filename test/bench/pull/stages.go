package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
)

// A stage is what berthd says of a part of one pull: of all layers together, which run
// side by side and each in three goroutines, so that the sum is more than the wall time.
type stage struct {
	name string
	took time.Duration
}

// ownConfig has berthd log its stages.
const ownConfig = "[log]\nverbosity = 1\n"

var stagePattern = regexp.MustCompile(`(\w+)="([0-9.]+(?:m|µ)?s|[0-9]+m[0-9.]+s)"`)

// ownStages finds the stages of the last pull of image in berthd's log.
func ownStages(log, image string) (all []stage) {
	for line := range strings.SplitSeq(log, "\n") {
		if !strings.Contains(line, `"Pulled an image"`) || !strings.Contains(line, image) {
			continue
		}
		all = nil
		for _, m := range stagePattern.FindAllStringSubmatch(line, -1) {
			if took, err := time.ParseDuration(m[2]); err == nil && m[1] != "took" {
				all = append(all, stage{m[1], took})
			}
		}
	}
	return all
}

// own is the table of berthd's own stages.
func (b *benchmark) own(packing string) (all []bench.Table) {
	for _, c := range b.contenders()[1:] {
		list := b.results[key{c.name, packing}]
		if len(list) == 0 || len(list[0].stages) == 0 {
			continue
		}
		t := bench.Table{
			Title: fmt.Sprintf("Stages of %s's own, %s", c.name, packing),
			Head:  []string{""}, Rows: [][]string{{"of all layers together"}},
			Notes: []string{"Layers come side by side, and what is done for one is done side by side: the sum is more than the wall time. Medians."},
		}
		for i, s := range list[0].stages {
			t.Head = append(t.Head, s.name)
			t.Rows[0] = append(t.Rows[0], seconds(bench.Quantile(values(list, func(r result) float64 {
				if i >= len(r.stages) {
					return 0
				}
				return r.stages[i].took.Seconds()
			}), 0.5)))
		}
		all = append(all, t)
	}
	return all
}
