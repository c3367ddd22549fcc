package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/operator/api"
)

// aPull is a transfer under way, as it is printed as JSON.
type aPull struct {
	Image      string   `json:"image"`
	Work       string   `json:"work"` // pulling, importing or pushing
	Started    int64    `json:"started_unix_nano"`
	Bytes      int64    `json:"bytes"`
	Total      int64    `json:"total_bytes"` // 0: not known yet
	Layers     int32    `json:"layers"`
	Done       int32    `json:"layers_done"`
	Stage      string   `json:"stage"`
	Unfinished []aLayer `json:"unfinished"`
	Pods       []string `json:"pods"` // NAMESPACE/NAME of those that wait for it

	doing string // stage, or what its layers are at, for a line
}

type aLayer struct {
	Digest     string `json:"digest"`
	Size       int64  `json:"size"`
	Stage      string `json:"stage"`
	Host       string `json:"host,omitempty"`
	WaitingFor string `json:"waiting_for,omitempty"`

	doing string // stage, with whom it is about
}

func pullOf(p *api.Progress) aPull {
	out := aPull{
		Image: p.GetImage(), Work: cmp.Or(p.GetWork(), "pulling"), Started: p.GetStartedUnixNano(), Bytes: p.GetBytes(), Total: p.GetTotalBytes(), Layers: p.GetLayers(),
		Done: p.GetLayersDone(), Stage: p.GetStage(), Unfinished: []aLayer{}, Pods: orEmpty(p.GetPods()),
		doing: cmp.Or(p.GetDoing(), p.GetStage()), // a daemon of before it had it says less
	}
	for _, l := range p.GetUnfinished() {
		out.Unfinished = append(out.Unfinished, aLayer{l.GetDigest(), l.GetSize(), l.GetStage(), l.GetHost(), l.GetWaitingFor(), cmp.Or(l.GetDoing(), l.GetStage())})
	}
	return out
}

// pulls asks for the transfers under way. A daemon without the call has none to tell of.
func (c *client) pulls(ctx context.Context) ([]aPull, error) {
	resp, err := c.operator.Pulls(ctx, &api.PullsRequest{})
	if status.Code(err) == codes.Unimplemented {
		return []aPull{}, nil
	}
	if err != nil {
		return nil, c.explain(err)
	}
	list := []aPull{}
	for _, p := range resp.GetPulls() {
		list = append(list, pullOf(p))
	}
	return list, nil
}

// average is the rate since the beginning, in bytes a second.
func (p aPull) average(now time.Time) float64 {
	if s := now.Sub(time.Unix(0, p.Started)).Seconds(); s > 0 && p.Started > 0 {
		return float64(p.Bytes) / s
	}
	return 0
}

// summary is a line's worth: bytes, rate, layers, and what is being done or waited for.
func (p aPull) summary(rate float64) string {
	if p.Total == 0 {
		return p.doing
	}
	text := fmt.Sprintf("%3d%%  %s of %s", p.percent(), bytesText(p.Bytes), bytesText(p.Total))
	if rate > 0 {
		text += "  " + bytesText(int64(rate)) + "/s"
	}
	return text + fmt.Sprintf("  layers %d/%d  %s", p.Done, p.Layers, p.doing)
}

func (p aPull) percent() int64 { return min(100*p.Bytes/max(p.Total, 1), 100) }

// A meter shows a transfer to a person: one line that changes on a terminal, else a line
// when there is something new, at most every few seconds. Call end.
type meter struct {
	out   io.Writer
	width int // of the terminal; 0: none
	now   func() time.Time

	at    time.Time // of what follows
	bytes int64
	rate  float64 // bytes a second, smoothed

	told time.Time
	last string
}

// tellEvery is how often at most a line is printed where there is no terminal.
const tellEvery = 2 * time.Second

// follow shows the progress that a call tells of, up to its last answer, which it returns.
func follow[R interface{ GetProgress() *api.Progress }](out io.Writer, recv func() (R, error), last func(R) bool) (R, error) {
	m := newMeter(out)
	defer m.end()
	for {
		resp, err := recv()
		if err != nil || last(resp) {
			return resp, err
		}
		m.show(pullOf(resp.GetProgress()))
	}
}

func newMeter(out io.Writer) *meter {
	m := &meter{out: out, now: time.Now}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		m.width = 80
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			m.width = w
		}
	}
	return m
}

func (m *meter) show(p aPull) {
	now := m.now()
	if since := now.Sub(m.at).Seconds(); m.at.IsZero() || p.Bytes < m.bytes {
		m.at, m.bytes = now, p.Bytes
	} else if since >= 0.5 {
		fresh := float64(p.Bytes-m.bytes) / since
		if m.rate == 0 {
			m.rate = fresh
		}
		m.rate += (fresh - m.rate) / 3
		m.at, m.bytes = now, p.Bytes
	}
	text := clean(p.summary(m.rate))
	if m.width == 0 {
		if text != m.last && now.Sub(m.told) >= tellEvery {
			m.told, m.last = now, text
			fmt.Fprintln(m.out, text)
		}
		return
	}
	if p.Total > 0 {
		const cells = 24
		full := int(p.percent()) * cells / 100
		text = "[" + strings.Repeat("=", full) + strings.Repeat(" ", cells-full) + "] " + text
	}
	m.line(text)
}

// line overwrites the terminal's line.
func (m *meter) line(text string) {
	for utf8.RuneCountInString(text) >= m.width {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	fmt.Fprint(m.out, "\r\x1b[K"+text)
}

// end leaves the terminal's line empty, for what is printed next.
func (m *meter) end() {
	if m.width > 0 {
		m.line("")
	}
}
