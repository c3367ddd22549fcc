package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A failure is a creation that failed, as berthd gives it under "failures" in a verbose Status.
type failure struct {
	Object string    `json:"object"`
	ID     string    `json:"id"`
	Name   string    `json:"name"` // as an operation's
	At     time.Time `json:"at"`
	Times  int       `json:"times"`
	Error  string    `json:"error"`
	Steps  []stage   `json:"steps,omitempty"`
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s: creation failed %s, last %s ago: %s", f.Object, f.Name, f.times(), time.Since(f.At).Round(time.Second), f.Error)
}

// goesBy tells whether it is of the pod or container that goes by name.
func (f failure) goesBy(name string) bool {
	return operation{ID: f.ID, Name: f.Name}.goesBy(name)
}

func (f failure) times() string {
	if f.Times == 1 {
		return "once"
	}
	return fmt.Sprint(f.Times, " times")
}

func (f failure) why(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.TrimRight(clean(fmt.Sprintf("%s %s  %s", f.Object, f.Name, f.ID)), " "))
	row(w, "state", "its creation failed, and it is not there")
	row(w, "failed", fmt.Sprintf("%s, last at %s", f.times(), f.At.UTC().Format(time.RFC3339)))
	row(w, "reason", f.Error)
	return writeStages(w, f.Steps)
}

// An owed is a pod whose address is not given back yet, as berthd gives it under "addressesOwed".
type owed struct {
	ID    string    `json:"id"`
	Pod   string    `json:"pod"` // namespace/name
	Since time.Time `json:"since"`
	Error string    `json:"error"`
}

func (o owed) String() string {
	return fmt.Sprintf("pod %s  %s: its address is not given back for %s, and is tried again: %s", o.Pod, short(o.ID), time.Since(o.Since).Round(time.Second), o.Error)
}
