package stream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// forwarder is a PortForwarder for one session.
type forwarder struct {
	*session
	podID string
	ports []int32 // those the URL is for; none: all

	open atomic.Int32 // connections
}

func (x *session) portForward(podID string, ports []int32) {
	f := &forwarder{session: x, podID: podID, ports: ports}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(x.r) {
		f.tunnel()
		return
	}
	f.serve(x.w, x.r)
}

func (f *forwarder) serve(w http.ResponseWriter, r *http.Request) {
	portforward.ServePortForward(w, r, f, f.podID, "", &portforward.V4Options{Ports: f.ports}, idleLimit,
		remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// PortForward implements portforward.PortForwarder: one connection to the pod.
// Either side may end what it sends while the other goes on.
func (f *forwarder) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if !f.server.begin() { // the session does not wait for its connections
		return errStopping
	}
	defer f.server.work.Done()
	if len(f.ports) > 0 && !slices.Contains(f.ports, port) {
		return fmt.Errorf("port %d is not one of those that were asked for (%d)", port, f.ports)
	}
	defer f.open.Add(-1)
	if f.open.Add(1) > maxForwards {
		return fmt.Errorf("port %d: this client has %d connections already, the most there may be; close some", port, maxForwards)
	}
	conn, err := f.server.backend.Dial(f.ctx, f.podID, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(f.ctx, func() { conn.Close() })()
	var both sync.WaitGroup
	var down error
	both.Go(func() { // to the pod
		// The probe of a half that has ended fails: a pod that sends no more and takes
		// nothing has done with it.
		err := newStall(stream, func() { conn.Close() }).copy(conn, stream)
		if err == nil {
			err = closeWrite(conn)
		}
		if err != nil { // it takes no more
			conn.Close()
		}
	})
	both.Go(func() { // to the client
		_, down = io.Copy(stream, conn)
		stream.Close() // its half: what the client still sends goes on
	})
	both.Wait()
	if f.ctx.Err() != nil {
		return f.over()
	}
	return down
}

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}
