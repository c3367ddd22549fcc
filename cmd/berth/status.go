package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nodeStatus is what berth status prints as JSON.
type nodeStatus struct {
	Socket     string          `json:"socket"`
	Version    string          `json:"version"`
	API        string          `json:"api"`
	Ready      bool            `json:"ready"`
	Conditions []nodeCondition `json:"conditions"`
	Handlers   []string        `json:"handlers"` // "" is the default one
	AppArmor   string          `json:"apparmor,omitempty"`
	UnderWay   []operation     `json:"under_way"` // what takes long
	Owed       []owed          `json:"addresses_owed"`
	Failures   []failure       `json:"failures"` // creations that failed and have not succeeded since
	Shims      []aShim         `json:"shims"`    // what keeps containers alive
	Pulls      []aPull         `json:"pulls"`    // under way
}

type nodeCondition struct {
	Type    string `json:"type"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

func statusCommand(to *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether this node can run pods, and why not",
		Long:  "Tell whether this node can run pods, and why not. The exit code is 1 when it cannot.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.ask(cmd.Context(), func(ctx context.Context, c *client) error {
				s, err := c.status(ctx)
				if err != nil {
					return err
				}
				if err := s.print(cmd.OutOrStdout(), asJSON); err != nil {
					return err
				}
				if !s.Ready {
					return errAnswered
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// status asks the daemon. A daemon that is not ready is no error.
func (c *client) status(ctx context.Context) (nodeStatus, error) {
	v, err := c.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return nodeStatus{}, c.explain(err)
	}
	resp, err := c.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nodeStatus{}, c.explain(err)
	}
	s := nodeStatus{
		Socket: c.socket, Version: v.GetRuntimeName() + " " + v.GetRuntimeVersion(), API: v.GetRuntimeApiVersion(),
		Ready: true, Conditions: []nodeCondition{}, Handlers: []string{}, AppArmor: resp.GetInfo()["apparmor"],
		Shims:    shimsOf(resp.GetInfo()["shims"]),
		UnderWay: listIn[operation](resp.GetInfo(), "underWay"), Owed: listIn[owed](resp.GetInfo(), "addressesOwed"),
		Failures: listIn[failure](resp.GetInfo(), "failures"),
	}
	seen := map[string]bool{}
	for _, cond := range resp.GetStatus().GetConditions() {
		s.Conditions = append(s.Conditions, nodeCondition{cond.GetType(), cond.GetStatus(), cond.GetReason(), cond.GetMessage()})
		s.Ready = s.Ready && cond.GetStatus()
		seen[cond.GetType()] = true
	}
	s.Ready = s.Ready && seen[runtimeapi.RuntimeReady] && seen[runtimeapi.NetworkReady] // kubelet wants both
	for _, h := range resp.GetRuntimeHandlers() {
		s.Handlers = append(s.Handlers, h.GetName())
	}
	s.Pulls, err = c.pulls(ctx)
	return s, err
}

func (s nodeStatus) print(out io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tCRI %s on %s\n", clean(s.Version), s.API, s.Socket)
	for _, c := range s.Conditions {
		line := c.Type + "\t" + yesNo(c.Ready)
		if c.Message != "" {
			line += ": " + c.Message
		} else if c.Reason != "" {
			line += ": " + c.Reason
		}
		fmt.Fprintln(w, clean(line))
	}
	fmt.Fprint(w, "Handlers\t")
	for i, h := range s.Handlers {
		if i > 0 {
			fmt.Fprint(w, ", ")
		}
		if h == "" {
			h = "(default)"
		}
		fmt.Fprint(w, clean(h))
	}
	fmt.Fprintln(w)
	printShims(w, s.Shims)
	if s.AppArmor != "" {
		fmt.Fprintf(w, "AppArmor\t%s\n", clean(s.AppArmor))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, o := range s.UnderWay {
		fmt.Fprintln(out, oneLine(o.String()))
	}
	for _, o := range s.Owed {
		fmt.Fprintln(out, oneLine(o.String()))
	}
	for _, f := range s.Failures {
		fmt.Fprintln(out, oneLine(f.String()))
	}
	return printPulls(out, "", s.Pulls)
}

// nodeInfo is what berthd has to say of the node beside its status.
func (c *client) nodeInfo(ctx context.Context) (map[string]string, error) {
	resp, err := c.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nil, c.explain(err)
	}
	return resp.GetInfo(), nil
}

// listIn reads a list in it. One without anything is left out; another runtime has none.
func listIn[T any](info map[string]string, key string) []T {
	list := []T{}
	if json.Unmarshal([]byte(info[key]), &list) != nil || list == nil {
		return []T{}
	}
	return list
}

// maxLine is how much of a text is shown where a thing has a line, in bytes. berth why has the rest.
const maxLine = 400

// oneLine is clean of a text that is to stay in its line.
func oneLine(text string) string {
	text = strings.NewReplacer("\n", " ", "\t", " ").Replace(text)
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "…"
	}
	return clean(text)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
