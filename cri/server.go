package cri

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/cri/stream"
	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/rest"
	"github.com/berthd/berth/sandbox"
)

// Options are what New needs.
type Options struct {
	Version       string   // of berthd, as Version answers it
	Handlers      []string // runtime handlers by name; "" is always there
	SystemdCgroup bool     // which cgroup driver kubelet is told

	NetworkReady   func() error           // nil, or why a new pod gets no network; must not wait
	NetworkSkipped func() []error         // what is wrong with CNI files that were passed over
	Config         func() (string, error) // the effective configuration as JSON, for Status with verbose

	Observer CallObserver // nil: nobody
	Rest     rest.Rest    // put off by calls that leave much to tidy up; the zero value: by none

	Streaming Streaming // where exec, attach and port-forward are served
}

// A Server answers the CRI. Until Attach, calls wait, and those that have waited for holdFor
// fail with Unavailable: kubelet then asks again, and a log that is followed goes on.
type Server struct {
	opts    Options
	grpc    *grpc.Server
	runtime *runtimeService // filled before ready is set
	images  *imageServer    // filled before ready is set
	streams *stream.Server
	ready   chan struct{} // closed by Attach
	hold    time.Duration // how long a call waits for that
	calls   atomic.Int64  // under way, streams among them
}

// maxMessage bounds a request and an answer, in bytes: what kubelet accepts.
const maxMessage = 16 << 20

// holdFor is how long a call waits for a daemon that is starting. Finding a hundred pods
// takes a fraction of a second; kubelet's shortest deadline is two minutes.
const holdFor = 10 * time.Second

// New returns a server that lets no call in until Attach.
func New(o Options) *Server {
	s := &Server{opts: o, runtime: &runtimeService{}, images: &imageServer{}, ready: make(chan struct{}), hold: holdFor}
	s.grpc = grpc.NewServer(
		grpc.UnaryInterceptor(s.intercept),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.MaxConcurrentStreams(maxCallsOfOne),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	runtimeapi.RegisterRuntimeServiceServer(s.grpc, s.runtime)
	runtimeapi.RegisterImageServiceServer(s.grpc, s.images)
	return s
}

// GRPC is the server to serve on a listener.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// Calls is how many calls are being worked on. What a client has not fetched yet of
// the answer of another does not count.
func (s *Server) Calls() int64 { return s.calls.Load() }

// Attach gives the server its parts and lets calls in. It is called once.
func (s *Server) Attach(n *sandbox.Node, images *imageservice.Service) {
	*s.runtime = runtimeService{
		node:       node{opts: s.opts, pods: n.Pods, readiness: n.Readiness, node: n},
		streaming:  streaming{server: s.streams, node: n},
		pods:       pods{pods: n.Pods, list: listPods(n.Pods), systemdCgroup: s.opts.SystemdCgroup},
		containers: containers{containers: n.Containers, list: listContainers(n.Containers), handlers: s.opts.Handlers},
		processes:  processes{containers: n.Containers},
		events:     events{events: n.Events},
		stats:      stats{stats: n.Stats, images: images},
		metrics:    metrics{stats: n.Stats},
		updates:    updates{pods: n.Pods, containers: n.Containers},
	}
	*s.images = imageServer{images: images, handlers: s.opts.Handlers, stats: n.Stats}
	s.opts.Rest.PutOff() // from all that starts a daemon
	close(s.ready)
}

// runtimeService is the sum of small servers. What none of them has, unbuilt
// answers with Unimplemented: embedded deeper, it loses to every other.
type runtimeService struct {
	node
	pods
	containers
	processes
	events
	stats
	metrics
	updates
	streaming
	unbuilt
}

type unbuilt struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}
