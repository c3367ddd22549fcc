package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// A pod is the part of a pod's description by kubelet that is looked at here.
type pod struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase                                    string
		PodIP                                    string
		Conditions                               []condition
		InitContainerStatuses, ContainerStatuses []container
	}
}

type condition struct{ Type, Status string }

type container struct {
	Name         string
	ContainerID  string
	ImageID      string
	Ready        bool
	Started      *bool
	RestartCount int
	State, Last  state
}

// A state is one of three.
type state struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt string }
	Terminated *ended
}

type ended struct {
	ExitCode                     int
	Signal                       int
	Reason, Message, ContainerID string
}

func (s state) String() string {
	data, err := json.Marshal(s)
	return fmt.Sprint(string(data), err)
}

// UnmarshalJSON reads lastState, which encoding/json would look for under "last".
func (c *container) UnmarshalJSON(data []byte) error {
	type plain container
	var more struct{ LastState state }
	err := errors.Join(json.Unmarshal(data, (*plain)(c)), json.Unmarshal(data, &more))
	c.Last = more.LastState
	return err
}

// container finds a container's status, an init container's too.
func (p pod) container(name string) (container, error) {
	all := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
	}
	return container{}, fmt.Errorf("%s (%s) has no container %s yet", p.Metadata.Name, p.Status.Phase, name)
}

func (p pod) is(condition string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == condition {
			return c.Status == "True"
		}
	}
	return false
}

// String says how far a pod is, for who waits.
func (p pod) String() string {
	s := fmt.Sprintf("%s: %s, ready %t", p.Metadata.Name, p.Status.Phase, p.is("Ready"))
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		s += fmt.Sprintf("; %s: ready %t, restarts %d, %s, before: %s", c.Name, c.Ready, c.RestartCount, c.State, c.Last)
	}
	return s
}
