package cri

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berthd/berth/sandbox"
)

// idMatches tells whether a filter's ID, which may be a prefix, fits. An empty
// one fits all.
func idMatches(id, want string) bool { return strings.HasPrefix(id, want) }

// labelsMatch tells whether labels has all of want, by equality.
func labelsMatch(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func newestFirst(a, b int64, aID, bID string) int {
	return cmp.Or(cmp.Compare(b, a), cmp.Compare(aID, bID))
}

// podInfo and containerInfo are what a verbose status adds, as JSON under "info".
type podInfo struct {
	ID        string        `json:"id"`
	State     sandbox.State `json:"state"`
	Reason    string        `json:"reason,omitempty"`
	Owed      string        `json:"owed,omitempty"` // why the address is not given back yet
	NetNS     string        `json:"netns,omitempty"`
	IPs       []string      `json:"ips,omitempty"`
	CreatedAt int64         `json:"createdAt"`
	Overhead  resources     `json:"overhead"`
	Resources resources     `json:"resources"`
}

type containerInfo struct {
	ID        string        `json:"id"`
	SandboxID string        `json:"sandboxID"`
	State     sandbox.State `json:"state"`
	Pid       int           `json:"pid"`
	LogPath   string        `json:"logPath,omitempty"`
	Resources resources     `json:"resources"`

	UpdateAnnotations map[string]string `json:"updateAnnotations,omitempty"`
}

// stage is one line of the timed stages of a verbose status.
type stage struct {
	Name       string  `json:"name"`
	Start      string  `json:"start"`
	DurationMS float64 `json:"duration_ms"`
	Error      string  `json:"error,omitempty"`
}

// verbose is the info map of a status: one JSON object under each key, which is
// what crictl shows indented; anything else it shows as an escaped text.
func verbose(info any, stages []sandbox.Stage) (map[string]string, error) {
	out := map[string]string{}
	for key, v := range map[string]any{"info": info, "stages": map[string]any{"steps": shownStages(stages)}} {
		data, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("verbose status: %w", err)
		}
		out[key] = string(data)
	}
	return out, nil
}

func shownStages(stages []sandbox.Stage) []stage {
	list := make([]stage, 0, len(stages))
	for _, s := range stages {
		list = append(list, stage{Name: s.Name, Start: s.Start.Format("15:04:05.000000"),
			DurationMS: float64(s.Duration.Microseconds()) / 1000, Error: s.Error})
	}
	return list
}

// A failure is a sandbox.Failure with its stages as in a status.
type failure struct {
	sandbox.Failure
	Stages []stage `json:"steps"`
}

func shownFailures(list []sandbox.Failure) (shown []failure) {
	for _, f := range list {
		shown = append(shown, failure{f, shownStages(f.Stages)})
		shown[len(shown)-1].Failure.Stages = nil
	}
	return shown
}
