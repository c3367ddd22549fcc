package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A stage is one named, timed part of what berthd did, as it gives it under
// "stages", "steps" in a verbose status.
type stage struct {
	Name       string  `json:"name"`
	Start      string  `json:"start"`
	DurationMS float64 `json:"duration_ms"` // 0 while it is under way, or when it took no time
	Error      string  `json:"error"`
}

// info is what is used of "info" in a verbose status.
type info struct {
	State  string `json:"state"`
	Reason string `json:"reason"`
	Owed   string `json:"owed"` // why a pod's address is not given back yet
}

func whyCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "why POD|CONTAINER",
		Short: "Tell what has happened to a pod or a container, step by step",
		Long: "Tell what has happened to a pod or a container, step by step and with the time\n" +
			"that each step took. Name it by its ID or the beginning of it, its name, or\n" +
			"NAMESPACE/POD. Where several have the name, all are shown, the newest first.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.ask(cmd.Context(), func(ctx context.Context, c *client) error {
				return c.why(ctx, cmd.OutOrStdout(), args[0])
			})
		},
	}
}

// why prints every pod and container that goes by name.
func (c *client) why(ctx context.Context, out io.Writer, name string) error {
	pods, containers, err := c.all(ctx)
	if err != nil {
		return err
	}
	pulls, err := c.pulls(ctx)
	if err != nil {
		return err
	}
	found := 0
	for _, p := range pods {
		if !goesBy(name, p.GetId(), p.GetMetadata().GetName(), p.GetMetadata().GetNamespace()) {
			continue
		}
		found++
		if err := c.whyPod(ctx, out, p.GetId()); err != nil {
			return err
		}
		for _, k := range containers {
			if k.GetPodSandboxId() == p.GetId() {
				fmt.Fprintf(out, "  container %s  %s  %s\n", clean(k.GetMetadata().GetName()), short(k.GetId()), containerState(k.GetState()))
			}
		}
		if err := printPulls(out, "  ", pullsFor(pulls, p.GetMetadata(), "")); err != nil {
			return err
		}
	}
	for _, k := range containers {
		if !goesBy(name, k.GetId(), k.GetMetadata().GetName(), "") {
			continue
		}
		found++
		if err := c.whyContainer(ctx, out, k.GetId()); err != nil {
			return err
		}
		if err := printPulls(out, "  ", pullsFor(pulls, podOf(pods, k), k.GetImage().GetUserSpecifiedImage())); err != nil {
			return err
		}
	}
	node, err := c.nodeInfo(ctx)
	if err != nil {
		return err
	}
	for _, o := range listIn[operation](node, "underWay") {
		if o.goesBy(name) {
			found++
			fmt.Fprintln(out, clean(o.String()))
		}
	}
	for _, f := range listIn[failure](node, "failures") {
		if f.goesBy(name) {
			found++
			if err := f.why(out); err != nil {
				return err
			}
		}
	}
	if found > 0 {
		return nil
	}
	// What is still being made is not listed, and may answer to its ID.
	if c.whyPod(ctx, out, name) == nil || c.whyContainer(ctx, out, name) == nil {
		return nil
	}
	return fmt.Errorf("%s: berthd knows no such pod or container", name)
}

// An operation is what berthd has been doing to a pod or a container for a while, as it
// gives it under "underWay" in a verbose Status.
type operation struct {
	Object    string    `json:"object"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Operation string    `json:"operation"`
	Stage     string    `json:"stage"`
	Since     time.Time `json:"since"`
}

// goesBy tells whether it is of the pod or container that goes by name.
func (o operation) goesBy(name string) bool {
	namespace, pod, _ := strings.Cut(o.Name, "/")
	pod, container, _ := strings.Cut(pod, "/")
	return goesBy(name, o.ID, pod, namespace) || container != "" && goesBy(name, "", container, "")
}

func (o operation) String() string {
	return fmt.Sprintf("%s %s  %s: %s under way for %s, at stage %q", o.Object, o.Name, short(o.ID), o.Operation, time.Since(o.Since).Round(100*time.Millisecond), o.Stage)
}

// pullsFor are the pulls that a pod's kubelet waits for: of image alone, if that is not
// "", which then is the name as the pod has it.
func pullsFor(pulls []aPull, pod *runtimeapi.PodSandboxMetadata, image string) (out []aPull) {
	for _, p := range pulls {
		if slices.Contains(p.Pods, pod.GetNamespace()+"/"+pod.GetName()) && (image == "" || isNamed(p.Image, image)) {
			out = append(out, p)
		}
	}
	return out
}

// isNamed tells whether a pull's full name is what somebody calls name, who may have left
// out the registry, the folder "library" and the tag "latest".
func isNamed(full, name string) bool {
	for _, prefix := range []string{"", "docker.io/", "docker.io/library/"} {
		if full == prefix+name || full == prefix+name+":latest" {
			return true
		}
	}
	return false
}

// podOf is the metadata of a container's pod.
func podOf(pods []*runtimeapi.PodSandbox, k *runtimeapi.Container) *runtimeapi.PodSandboxMetadata {
	for _, p := range pods {
		if p.GetId() == k.GetPodSandboxId() {
			return p.GetMetadata()
		}
	}
	return nil
}

// all lists every pod and container. As streams: the lists may be larger than one
// message.
func (c *client) all(ctx context.Context) (pods []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, err error) {
	podStream, err := c.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	if err != nil {
		return nil, nil, c.explain(err)
	}
	for {
		part, err := podStream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, c.explain(err)
		}
		pods = append(pods, part.GetPodSandboxes()...)
	}
	containerStream, err := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if err != nil {
		return nil, nil, c.explain(err)
	}
	for {
		part, err := containerStream.Recv()
		if errors.Is(err, io.EOF) {
			return pods, containers, nil
		}
		if err != nil {
			return nil, nil, c.explain(err)
		}
		containers = append(containers, part.GetContainers()...)
	}
}

// shortest is the least of an ID that stands for it.
const shortest = 3

func goesBy(name, id, itsName, namespace string) bool {
	if name == "" {
		return false
	}
	return len(name) >= shortest && strings.HasPrefix(id, name) || name == itsName || namespace != "" && name == namespace+"/"+itsName
}

func (c *client) whyPod(ctx context.Context, out io.Writer, id string) error {
	resp, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return c.explain(err)
	}
	s := resp.GetStatus()
	meta := s.GetMetadata()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "pod %s/%s  %s\n", clean(meta.GetNamespace()), clean(meta.GetName()), s.GetId())
	printState(w, strings.ToLower(strings.TrimPrefix(s.GetState().String(), "SANDBOX_")), resp.GetInfo(), "", "")
	row(w, "attempt", fmt.Sprint(meta.GetAttempt()))
	row(w, "created", when(s.GetCreatedAt()))
	row(w, "handler", s.GetRuntimeHandler())
	ips := []string{s.GetNetwork().GetIp()}
	for _, ip := range s.GetNetwork().GetAdditionalIps() {
		ips = append(ips, ip.GetIp())
	}
	row(w, "address", strings.Join(ips, ", "))
	return printStages(w, resp.GetInfo())
}

func (c *client) whyContainer(ctx context.Context, out io.Writer, id string) error {
	resp, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return c.explain(err)
	}
	s := resp.GetStatus()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "container %s  %s\n", clean(s.GetMetadata().GetName()), s.GetId())
	printState(w, containerState(s.GetState()), resp.GetInfo(), s.GetReason(), s.GetMessage())
	row(w, "attempt", fmt.Sprint(s.GetMetadata().GetAttempt()))
	row(w, "image", s.GetImage().GetImage())
	row(w, "created", when(s.GetCreatedAt()))
	row(w, "started", when(s.GetStartedAt()))
	if s.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
		row(w, "ended", fmt.Sprintf("%s, exit code %d", when(s.GetFinishedAt()), s.GetExitCode()))
	}
	row(w, "log", s.GetLogPath())
	return printStages(w, resp.GetInfo())
}

// printState gives the state, berthd's own word for it where that says more, and
// the reason.
func printState(w io.Writer, state string, verbose map[string]string, reason, message string) {
	var i info
	_ = json.Unmarshal([]byte(verbose["info"]), &i) // another runtime's says something else: then nothing is added
	if i.State != "" && i.State != state {
		state += " (" + i.State + ")"
	}
	row(w, "state", state)
	if reason == "" {
		reason = i.Reason
	}
	if message != "" && message != reason {
		reason = strings.TrimPrefix(reason+": "+message, ": ")
	}
	row(w, "reason", reason)
	row(w, "owed", i.Owed)
}

func printStages(w *tabwriter.Writer, verbose map[string]string) error {
	var told struct{ Steps []stage }
	if json.Unmarshal([]byte(verbose["stages"]), &told) != nil {
		told.Steps = nil
	}
	return writeStages(w, told.Steps)
}

func writeStages(w *tabwriter.Writer, stages []stage) error {
	if len(stages) == 0 {
		fmt.Fprintln(w, "  stages:\tnone known")
		return w.Flush()
	}
	fmt.Fprintln(w, "  stages:")
	for i, s := range stages {
		took := fmt.Sprintf("%.1f ms", s.DurationMS)
		if s.DurationMS == 0 && s.Error == "" && i == len(stages)-1 { // one that took no time at all has another behind it
			took = "under way"
		}
		line := fmt.Sprintf("    %s\t%s\t%s", s.Start, took, s.Name)
		if s.Error != "" {
			line += "\tfailed: " + s.Error
		}
		fmt.Fprintln(w, clean(line))
	}
	return w.Flush()
}

// row prints one line, or nothing when there is nothing to say.
func row(w io.Writer, key, value string) {
	if value != "" {
		fmt.Fprintf(w, "  %s:\t%s\n", key, strings.ReplaceAll(clean(value), "\n", "\n  \t"))
	}
}

func when(nano int64) string {
	if nano == 0 {
		return ""
	}
	return time.Unix(0, nano).UTC().Format(time.RFC3339)
}

func containerState(s runtimeapi.ContainerState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "CONTAINER_"))
}

func short(id string) string { return id[:min(len(id), 13)] }
