package stream

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// commandProtocols are the subprotocols of a command's WebSocket. The value says
// whether its status is JSON; the first ones have text. Only the fifth can end
// stdin (KEP-4006), and k8s.io/cri-streaming does not have it.
var commandProtocols = map[string]bool{
	"":                                      false,
	wsstream.ChannelWebSocketProtocol:       false,
	wsstream.Base64ChannelWebSocketProtocol: false,
	remotecommand.StreamProtocolV4Name:      true,
	"v4." + wsstream.Base64ChannelWebSocketProtocol: true,
	remotecommand.StreamProtocolV5Name:              true,
}

// serveSocket serves a command or an attachment over WebSocket.
func (c *command) serveSocket() {
	conn := wsstream.NewConn(c.channels())
	conn.SetIdleTimeout(idleLimit)
	protocol, channels, err := conn.Open(c.w, c.r)
	if err != nil {
		klog.FromContext(c.ctx).V(2).Info("A WebSocket was not opened", "err", err)
		return
	}
	defer conn.Close()
	var out, errOut io.Writer
	hello := channels[remotecommand.StreamErr]
	if c.streams.Stderr {
		errOut = channels[remotecommand.StreamStdErr]
		hello = channels[remotecommand.StreamStdErr]
	}
	if c.streams.Stdout {
		out = channels[remotecommand.StreamStdOut]
		hello = channels[remotecommand.StreamStdOut]
	}
	_, _ = hello.Write(nil) // clients wait for something; who has gone is seen to be
	err = c.run(channels[remotecommand.StreamStdIn], out, errOut, c.sizes(channels[remotecommand.StreamResize]), hello)
	text := c.status(err)
	if !commandProtocols[protocol] {
		if text = nil; err != nil {
			text = []byte(err.Error())
		}
	}
	if text != nil {
		_, _ = channels[remotecommand.StreamErr].Write(text)
	}
}

// channels are those of each subprotocol.
func (c *command) channels() map[string]wsstream.ChannelProtocolConfig {
	wanted := func(yes bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if yes {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  wanted(c.streams.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: wanted(c.streams.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: wanted(c.streams.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	out := map[string]wsstream.ChannelProtocolConfig{}
	for name := range commandProtocols {
		out[name] = wsstream.ChannelProtocolConfig{Binary: !strings.Contains(name, "base64"), Channels: channels}
	}
	return out
}

// sizes reads the sizes of the client's terminal, to the end whatever comes:
// nothing else of the connection is read before.
func (c *command) sizes(from io.Reader) <-chan remotecommand.TerminalSize {
	sizes := make(chan remotecommand.TerminalSize)
	c.server.work.Go(func() {
		defer close(sizes)
		in := &capped{Reader: from}
		d := json.NewDecoder(in)
		for {
			var size remotecommand.TerminalSize
			in.left = maxSize
			if d.Decode(&size) != nil {
				_, _ = io.Copy(io.Discard, from)
				return
			}
			select {
			case sizes <- size:
			case <-c.ctx.Done():
			}
		}
	})
	return sizes
}

// maxSize is more than a terminal's size takes as JSON, in bytes.
const maxSize = 4 << 10

// A capped reader ends when left is used up: a decoder keeps all of a value that does
// not end.
type capped struct {
	io.Reader
	left int
}

// Read implements io.Reader.
func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Reader.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// A status is what a client of the later subprotocols is told in the end: the
// fields of Kubernetes' Status that kubectl reads.
type status struct {
	Metadata struct{}       `json:"metadata"`
	Status   string         `json:"status"`
	Message  string         `json:"message,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Details  *statusDetails `json:"details,omitempty"`
	Code     int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// status says how a command has ended.
func (c *command) status(err error) []byte {
	s := status{Status: "Success"}
	exit, exited := errors.AsType[exitError](err)
	switch {
	case exited:
		s = status{
			Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason,
			Message: "command terminated with non-zero exit code: " + exit.Error(),
			Details: &statusDetails{[]statusCause{{remotecommand.ExitCodeCauseType, strconv.Itoa(int(exit.code))}}},
		}
	case err != nil:
		klog.FromContext(c.ctx).Error(err, "A streaming session failed")
		s = status{Status: "Failure", Reason: "InternalError", Code: http.StatusInternalServerError, Message: err.Error()}
	}
	text, err := json.Marshal(s)
	if err != nil {
		return []byte(err.Error()) // no such value
	}
	return text
}

// tunnel serves a port-forward session whose SPDY comes through a WebSocket
// (KEP-4006).
func (f *forwarder) tunnel() {
	pick := func(config *websocket.Config, _ *http.Request) error {
		for _, p := range config.Protocol {
			if p == portforward.WebsocketsSPDYTunnelingPortForwardV1 {
				config.Protocol = []string{p}
				return nil
			}
		}
		return fmt.Errorf("of the subprotocols there is only %s", portforward.WebsocketsSPDYTunnelingPortForwardV1)
	}
	websocket.Server{Handshake: pick, Handler: func(ws *websocket.Conn) {
		ws.PayloadType = websocket.BinaryFrame
		inner := f.r.Clone(f.r.Context())
		inner.Header = http.Header{
			httpstream.HeaderConnection:      {httpstream.HeaderUpgrade},
			httpstream.HeaderUpgrade:         {spdy.HeaderSpdy31},
			httpstream.HeaderProtocolVersion: {portforward.PortForwardV1Name},
		}
		f.serve(tunnelEnd{ws, http.Header{}}, inner)
	}}.ServeHTTP(f.w, f.r)
}

// A tunnelEnd is what the handler of SPDY upgrades: the WebSocket, in which both
// sides speak SPDY at once.
type tunnelEnd struct {
	conn   net.Conn
	header http.Header
}

// Header implements http.ResponseWriter.
func (e tunnelEnd) Header() http.Header { return e.header }

// WriteHeader implements http.ResponseWriter.
func (e tunnelEnd) WriteHeader(int) {}

// Write implements http.ResponseWriter. There is nobody who could read it.
func (e tunnelEnd) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements http.Hijacker.
func (e tunnelEnd) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return e.conn, bufio.NewReadWriter(bufio.NewReader(e.conn), bufio.NewWriter(e.conn)), nil
}
