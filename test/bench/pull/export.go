package main

import (
	"encoding/json"
	"os"
)

// An exported is what one contender's pulls of one packing took, for other programs.
type exported struct {
	Contender, Packing string
	Seconds, Disk      []float64 // wall time; bytes that the store takes
}

// export writes all rounds to the file that -json names.
func (b *benchmark) export() error {
	if b.json == "" {
		return nil
	}
	var all []exported
	for _, packing := range b.packings {
		for _, c := range b.contenders() {
			list := b.results[key{c.name, packing}]
			all = append(all, exported{c.name, packing,
				values(list, func(r result) float64 { return r.wall.Seconds() }), values(list, func(r result) float64 { return float64(r.disk) })})
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(b.json, data, 0o644)
}
