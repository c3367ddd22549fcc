package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
)

// An aShim is a process that keeps containers alive, as berthd has it under "shims" in a
// verbose status.
type aShim struct {
	ID       string `json:"id"`
	Pid      int    `json:"pid,omitempty"`
	Version  string `json:"version,omitempty"` // of its release; "" for one that does not say
	Protocol uint32 `json:"protocol"`
	Pods     int    `json:"pods"`
	Waits    string `json:"waits,omitempty"`   // why it has not been upgraded, if it was to be
	Problem  string `json:"problem,omitempty"` // why it cannot be asked
}

// shimsOf reads them. Another runtime has none.
func shimsOf(text string) []aShim {
	list := []aShim{}
	_ = json.Unmarshal([]byte(text), &list)
	return list
}

// printShims prints a line for each kind, and one for each that is not as it should be.
func printShims(w io.Writer, list []aShim) {
	type kind struct{ version, waits, problem string }
	count, pods, first := map[kind]int{}, map[kind]int{}, map[kind]aShim{}
	var order []kind
	for _, s := range list {
		k := kind{s.Version, s.Waits, s.Problem}
		if count[k]++; count[k] == 1 {
			order, first[k] = append(order, k), s
		}
		pods[k] += s.Pods
	}
	for _, k := range order {
		line := fmt.Sprintf("Shims\t%d of %s, protocol %d, pods: %d", count[k], cmp.Or(k.version, "an earlier release"), first[k].Protocol, pods[k])
		if k.waits != "" {
			line += "; not upgraded: " + k.waits
		}
		if k.problem != "" {
			line += "; " + k.problem
		}
		fmt.Fprintln(w, clean(line))
	}
}
