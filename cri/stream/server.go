package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Options say where and how the server listens.
type Options struct {
	Address string // host:port; port 0 is a free one
	// TLSCert and TLSKey are PEM files, read again when they change; "": no TLS.
	TLSCert, TLSKey string
	// Listen makes the listener, which the server closes; nil: net.Listen on TCP.
	Listen func(ctx context.Context, address string) (net.Listener, error)
}

const (
	// idleLimit is how long a session may say nothing (kubelet's
	// streamingConnectionIdleTimeout).
	idleLimit = 4 * time.Hour
	// headerLimit is how long a client may take to send a request.
	headerLimit = 10 * time.Second
	maxHeader   = 64 << 10
	// maxSessions bounds the sessions at once, beside the unclaimed URLs.
	maxSessions = 1000
	// maxClients bounds the connections at once, with those that have not said yet what
	// they want, and maxForwards those to a pod that one session may have.
	maxClients  = 2 * maxSessions
	maxForwards = 256
)

// Streams is what a client asks for of a process.
type Streams struct {
	Stdin, Stdout, Stderr, TTY bool
}

// A Process is what a client talks to. Stdout and Stderr end after it has; nil is
// one that it does not have. Close ends it if it is a command.
type Process interface {
	io.Writer
	CloseWrite() // the client will send nothing more
	Stdout() io.Reader
	Stderr() io.Reader
	Resize(width, height uint16)
	Done() <-chan struct{}
	Result() (code int32, err error) // once Done is closed
	Close() error
}

// A Backend has the containers and pods. ctx bounds the call and not what comes
// of it.
type Backend interface {
	Exec(ctx context.Context, containerID string, args []string, s Streams) (Process, error)
	Attach(ctx context.Context, containerID string, s Streams) (Process, error)
	Dial(ctx context.Context, podID string, port int32) (net.Conn, error)
}

// A Server serves sessions. It is safe for concurrent use.
type Server struct {
	backend Backend
	base    url.URL
	http    *http.Server
	tokens  tokens
	slots   chan struct{} // holds a token for each session

	ctx    context.Context // of all sessions
	cancel context.CancelCauseFunc

	mu   sync.Mutex     // guards work against what begins while Close waits
	work sync.WaitGroup // serving and sessions
}

// errStopping ends sessions when the daemon stops.
var errStopping = errors.New("berthd is stopping")

// Open listens and serves until Close. ctx carries the logger; its end does not
// matter.
func Open(ctx context.Context, o Options, b Backend) (*Server, error) {
	listen := o.Listen
	if listen == nil {
		listen = func(ctx context.Context, address string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		}
	}
	ln, err := listen(ctx, o.Address)
	if err != nil {
		return nil, fmt.Errorf("streaming.address: %w", err)
	}
	s := &Server{backend: b, slots: make(chan struct{}, maxSessions)}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.base = url.URL{Scheme: "http", Host: reachable(ln.Addr().(*net.TCPAddr))}
	var serve net.Listener = clientListener{ln, make(chan struct{}, maxClients)}
	if o.TLSCert != "" {
		keys := &keyPair{cert: o.TLSCert, key: o.TLSKey}
		if _, err := keys.get(nil); err != nil {
			ln.Close()
			return nil, fmt.Errorf("streaming.tls_cert: %w", err)
		}
		s.base.Scheme = "https"
		serve = tls.NewListener(serve, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: keys.get, NextProtos: []string{"http/1.1"}})
	}
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerLimit,
		ReadTimeout:       headerLimit, // a body, which no request needs; a session has none
		IdleTimeout:       headerLimit,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ConnContext:       withClient,
		ErrorLog:          klog.NewStandardLogger("INFO"),
	}
	s.work.Go(func() {
		if err := s.http.Serve(serve); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(s.ctx).Error(err, "The streaming server has ended; exec, attach and port-forward do not work until berthd is restarted")
		}
	})
	return s, nil
}

// reachable is where kubelet, on this machine, reaches a listener.
func reachable(a *net.TCPAddr) string {
	switch {
	case !a.IP.IsUnspecified():
		return a.String()
	case a.IP.To4() != nil:
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(a.Port))
	default:
		return net.JoinHostPort("localhost", fmt.Sprint(a.Port))
	}
}

// Addr is where the server is reached, as host:port.
func (s *Server) Addr() string { return s.base.Host }

// begin counts in what Close is to wait for, unless that has been called.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.work.Add(1)
	return true
}

// Close ends the sessions and waits for them until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.cancel(errStopping)
	s.mu.Unlock()
	err := s.http.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("streaming: sessions do not end: %w", context.Cause(ctx)))
	}
}

// Exec returns the URL of a command in a container.
func (s *Server) Exec(containerID string, args []string, o Streams) (string, error) {
	return s.offer("exec", func(x *session) { x.exec(containerID, args, o) })
}

// Attach returns the URL of a container's own streams.
func (s *Server) Attach(containerID string, o Streams) (string, error) {
	return s.offer("attach", func(x *session) { x.attach(containerID, o) })
}

// PortForward returns the URL of a pod's ports: those that are named, or, with
// none, those that the client asks for.
func (s *Server) PortForward(podID string, ports []int32) (string, error) {
	return s.offer("portforward", func(x *session) { x.portForward(podID, ports) })
}

// offer makes a URL that runs serve once.
func (s *Server) offer(kind string, serve func(*session)) (string, error) {
	token, err := s.tokens.add(serve)
	if err != nil {
		return "", err
	}
	return s.base.JoinPath(kind, token).String(), nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "GET or POST", http.StatusMethodNotAllowed)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default: // the URL stays good
		http.Error(w, "too many sessions are open; try again when one has ended", http.StatusServiceUnavailable)
		return
	}
	serve := s.tokens.take(tokenOf(r.URL.Path))
	if serve == nil {
		http.NotFound(w, r)
		return
	}
	client := clientOf(r.Context())
	if client == nil {
		http.Error(w, "not a connection of this server's", http.StatusInternalServerError)
		return
	}
	if !s.begin() {
		return
	}
	defer s.work.Done()
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	s.work.Go(func() {
		select {
		case <-client.gone:
			cancel(errClientGone)
		case <-ctx.Done():
			if s.ctx.Err() != nil || errors.Is(context.Cause(ctx), errClientGone) {
				client.Close() // nothing more is said
			}
		}
	})
	serve(&session{server: s, ctx: ctx, cancel: cancel, client: client, w: w, r: r})
	if _, err := w.Write(nil); errors.Is(err, http.ErrHijacked) { // or it has an answer, which is on its way
		client.part(s.ctx)
	}
}
