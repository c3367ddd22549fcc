package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/cmd/berthd/dump"
	"github.com/berthd/berth/config"
	"github.com/berthd/berth/cri"
	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/operator"
	operatorapi "github.com/berthd/berth/operator/api"
	"github.com/berthd/berth/operator/metrics"
	"github.com/berthd/berth/rest"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/selinux"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// drainLimit is how long calls under way may take after SIGTERM.
const drainLimit = 10 * time.Second

// serve builds the parts in the order of their dependencies, answers until ctx
// ends, and stops. Containers go on.
func serve(ctx context.Context, cfg config.Config) error {
	unlock, err := claimFolders(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	dumps := &dump.Keeper{Dir: filepath.Join(cfg.Root, dump.Folder), Version: version}
	defer dumpOnQuit(ctx, dumps)()
	reserve := imageservice.Reserve(cfg.Root)
	if err := reserve.GiveUp(); err != nil { // a start on a full disk needs some space
		return fmt.Errorf("root: %w", err)
	}
	sockets, err := receiveSockets()
	if err != nil {
		return err
	}
	listener, figures, scrapers, err := openSockets(ctx, cfg, sockets)
	if err != nil {
		return err
	}
	defer scrapers.Close()
	network, err := openNetwork(ctx, cfg)
	if err != nil {
		return err
	}
	defer network.Close()
	server, operators, err := newServer(cfg, network, figures, dumps, sockets)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.GRPC().Serve(listener) }() // calls wait for Attach

	tell("", "Finding pods and containers")
	policy, err := openSELinux(cfg)
	if err != nil {
		return err
	}
	layers, closeLayers, err := openSnapshots(ctx, cfg, policy)
	if err != nil {
		return err
	}
	defer closeLayers()
	if policy != nil && !snapshot.Labels(layers) {
		return errors.New("selinux.enable: the root filesystems of this snapshot.driver cannot be labelled; choose erofs or overlay, or set selinux.enable = false")
	}
	images, err := openImages(ctx, cfg, layers, figures)
	if err != nil {
		return err
	}
	defer images.Close()
	shims, binary, err := openShims(ctx, cfg)
	if err != nil {
		return err
	}
	defer shims.Close()
	node, err := sandbox.Open(ctx, sandbox.Options{
		SELinux: policy, AppArmor: true,
		Root: cfg.Root, State: cfg.State, Handlers: handlersOf(cfg),
		SystemdCgroup: cfg.SystemdCgroup(), PauseBinary: binary, CDIDirs: cfg.CDI.SpecDirs, OwnDevices: cfg.Devices.Ownership,
		Namespaces: netns.OpenNamespaces(cfg.State, binary), Network: network, Roots: layers,
		Images: images, Tasks: shims, Processes: shims, Runtimes: &shim.Runtimes{}, CheckShim: shims.Check, Shims: shims.List, Stages: figures,
	})
	if err != nil {
		return err
	}
	defer node.Close()
	if err := server.OpenStreams(ctx, node); err != nil {
		return err
	}
	defer closeStreams(ctx, server)
	sockets.dropOthers()
	if err := reserve.Fill(); err != nil {
		klog.FromContext(ctx).Error(err, "No space is kept for removals; the disk is full", "root", cfg.Root)
	}
	operators.Attach(images, func() map[string][]string { return imageUsers(node.Containers.List()) })
	server.Attach(node, images)
	scrapers.serve(ctx, node, images, network)
	upgradeShims(ctx, cfg, shims)
	return answer(ctx, cfg, server, node, dumps, listener, failed)
}

// openNetwork opens the pods' network. Close it.
func openNetwork(ctx context.Context, cfg config.Config) (*netns.Network, error) {
	return netns.OpenNetwork(ctx, netns.Options{
		ConfDir: cfg.Network.ConfDir, BinDirs: cfg.Network.BinDirs, Embedded: cfg.Network.Embedded,
		InProcess: cfg.Network.InProcess, Stays: true,
		CacheDir: filepath.Join(cfg.Root, "cni-cache"),
	})
}

// newServer is the CRI server and the operators' on the same socket. Their parts are
// still to come.
func newServer(cfg config.Config, network *netns.Network, figures *metrics.Metrics, dumps *dump.Keeper, sockets *sockets) (*cri.Server, *operator.Server, error) {
	systemd := cfg.SystemdCgroup()
	if _, err := os.Stat("/run/systemd/system"); systemd && err != nil {
		return nil, nil, errors.New("cgroup.driver: systemd does not run this machine; leave the key out, or set it to \"cgroupfs\"")
	}
	server := cri.New(cri.Options{
		Rest:    rest.New(),
		Version: version, Handlers: slices.Sorted(maps.Keys(cfg.Handlers)), SystemdCgroup: systemd,
		Observer: figures, NetworkReady: network.Ready, NetworkSkipped: network.Skipped, Config: cfg.JSON,
		Streaming: cri.Streaming{
			Address: cfg.Streaming.Address, TLSCert: cfg.Streaming.TLSCert, TLSKey: cfg.Streaming.TLSKey,
			Listen: func(ctx context.Context, address string) (net.Listener, error) {
				return sockets.tcp(ctx, "streaming", address)
			},
		},
	})
	operators := &operator.Server{}
	operatorapi.RegisterImagesServer(server.GRPC(), operators)
	operatorapi.RegisterNodeServer(server.GRPC(), &operator.NodeServer{Keep: dumps.Keep})
	return server, operators, nil
}

// openImages opens the images whose layers stand in layers. Close them.
func openImages(ctx context.Context, cfg config.Config, layers snapshot.Driver, figures *metrics.Metrics) (*imageservice.Service, error) {
	return imageservice.Open(ctx, imageservice.Options{
		Root: filepath.Join(cfg.Root, "images"), CertsDir: cfg.Image.CertsDir, Layers: layers, Reserve: imageservice.Reserve(cfg.Root),
		RegistriesConf: cfg.Image.RegistriesConf, AuthFile: cfg.Image.AuthFile,
		ParallelLayers: cfg.Image.ParallelLayers, LayerConnections: cfg.Image.LayerConnections, Connections: cfg.Image.Connections,
		Pinned: cfg.Image.Pinned, Ended: figures.PullEnded,
	})
}

// openShims finds the shims that run, and the shim's program for more. Close them.
func openShims(ctx context.Context, cfg config.Config) (*shim.Shims, string, error) {
	binary, err := cfg.ShimBinary()
	if err != nil {
		return nil, "", err
	}
	shims, err := shim.Open(ctx, shim.Options{Binary: binary, State: cfg.State, PodsPerProcess: cfg.Shim.PodsPerProcess, Verbosity: cfg.Log.Verbosity,
		LogRate: cfg.Log.RateLimit, LogBurst: cfg.Log.RateBurst})
	return shims, binary, err
}

// upgradeShims has shims execute the program that is on disk now, and at each SIGHUP.
func upgradeShims(ctx context.Context, cfg config.Config, shims *shim.Shims) {
	if cfg.Shim.Upgrade == config.UpgradeNever {
		return
	}
	shims.Upgrade()
	asked := hangups()
	go func() {
		for {
			select {
			case <-asked:
				shims.Upgrade()
			case <-ctx.Done():
				return
			}
		}
	}()
}

// answer tells that berthd is ready, and waits until ctx ends or the socket fails. Then it
// lets the calls under way end.
func answer(ctx context.Context, cfg config.Config, server *cri.Server, node *sandbox.Node, dumps *dump.Keeper, listener *rootListener, failed <-chan error) error {
	logger := klog.FromContext(ctx)
	logger.Info("Serving the CRI", "socket", cfg.Socket, "version", version, "pods", len(node.Pods.List()))
	text := func() string {
		return fmt.Sprintf("Serving the CRI on %s; pods: %d", cfg.Socket, len(node.Pods.List()))
	}
	tell(daemon.SdNotifyReady, text())
	go newWatchdog(cfg.Socket, dumps, text).run(ctx)
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", cfg.Socket, err)
	case <-ctx.Done():
	}
	tell(daemon.SdNotifyStopping, "Stopping; containers go on")
	logger.Info("Stopping; containers go on")
	drain(server, node, listener, failed)
	return nil
}

// imageUsers lists the IDs of containers by the ID of each image that they stand on.
func imageUsers(list []*sandbox.Container) map[string][]string {
	users := map[string][]string{}
	for _, c := range list {
		r := c.Record()
		ids := map[string]bool{r.Image.ID: true}
		for _, v := range r.ImageVolumes {
			ids[v.Image.ID] = true
		}
		for id := range ids {
			users[id] = append(users[id], r.ID)
		}
	}
	return users
}

// handlersOf are the runtime handlers by name.
func handlersOf(cfg config.Config) map[string]sandbox.Handler {
	named := map[string]sandbox.Handler{}
	for name, h := range cfg.Handlers {
		named[name] = sandbox.Handler{Path: h.Path}
	}
	return named
}

// openSnapshots opens what keeps layers and root filesystems. Call the function that it returns.
func openSnapshots(ctx context.Context, cfg config.Config, policy *selinux.Policy) (snapshot.Driver, func(), error) {
	dir := filepath.Join(cfg.Root, "snapshots")
	if p, ok := cfg.ProxyPlugins[cfg.Snapshot.Driver]; ok {
		d, err := snapshot.OpenProxied(ctx, cfg.Snapshot.Driver, p.Address, dir)
		if err != nil {
			return nil, nil, err
		}
		return d, func() { d.Close() }, nil
	}
	opts := []snapshot.Option{snapshot.WithLimits(snapshot.Limits{Writable: uint64(cfg.Snapshot.WritableLimit)})}
	if policy != nil {
		opts = append(opts, snapshot.WithLayerLabel(policy.ReadOnly))
	}
	d, err := snapshot.Open(ctx, cfg.Snapshot.Driver, dir, opts...)
	return d, func() {}, err
}

// openSELinux reads what the node's policy has for containers, nil without SELinux, and
// has layers labelled for them.
func openSELinux(cfg config.Config) (*selinux.Policy, error) {
	if !cfg.SELinux.Enable {
		return nil, nil
	}
	policy, err := selinux.Open()
	if err != nil || policy == nil {
		return nil, err
	}
	if err := selinux.LabelStore(filepath.Join(cfg.Root, "snapshots"), policy.ReadOnly); err != nil {
		return nil, fmt.Errorf("selinux: layers of images: %w", err)
	}
	return policy, nil
}

// flushLimit is how long clients may take to fetch the last answers.
const flushLimit = 500 * time.Millisecond

// drain lets calls under way end, for a while. Those that would never end by
// themselves are ended, and a client that does not read its answers is not waited
// for. Who connects from now on is left to the next daemon, where the socket is kept.
func drain(s *cri.Server, n *sandbox.Node, l *rootListener, failed <-chan error) {
	l.Close()
	<-failed // Serve has returned: it takes no connection any more
	l.begun.Wait()
	n.Events.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GRPC().GracefulStop()
	}()
	limit := time.After(drainLimit)
	tick := time.NewTicker(flushLimit / 10)
	defer tick.Stop()
	for idle := 0; idle < 10; {
		select {
		case <-done:
			return
		case <-limit:
			idle = 10
		case <-tick.C:
			if idle++; s.Calls() > 0 {
				idle = 0
			}
		}
	}
	s.GRPC().Stop()
}

// closeStreams ends what clients have open. They and their commands have ended
// then, or are left to the shims, which see this process end.
func closeStreams(ctx context.Context, s *cri.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	if err := s.CloseStreams(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Stopping")
	}
}

// override lays the flags that are set over cfg and checks the result.
func override(cfg config.Config, root, state, socket string) (*config.Config, error) {
	if state != "" && cfg.Socket == filepath.Join(cfg.State, filepath.Base(cfg.Socket)) {
		cfg.Socket = filepath.Join(state, filepath.Base(cfg.Socket)) // it lies in the state folder
	}
	for _, f := range []struct {
		value string
		to    *string
	}{{root, &cfg.Root}, {state, &cfg.State}, {socket, &cfg.Socket}} {
		if f.value != "" {
			*f.to = f.value
		}
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &cfg, nil
}

// lockPatience is how long a lock is tried for: the kernel takes a moment to end a berthd that was killed.
const lockPatience = time.Second

// lockInTime is lockFile that waits for a berthd that ends.
func lockInTime(path string) (f *os.File, err error) {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 50) {
		if f, err = lockFile(path); !errors.Is(err, errLocked) || time.Now().After(end) {
			return f, err
		}
	}
}

// claimFolders makes root and state and keeps other daemons out of them until
// unlock is called.
func claimFolders(cfg config.Config) (unlock func(), err error) {
	var locks []*os.File
	unlock = func() {
		for _, f := range locks {
			f.Close()
		}
	}
	for key, dir := range map[string]string{"root": cfg.Root, "state": cfg.State} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			unlock()
			return nil, fmt.Errorf("%s: cannot be made: %w", key, err)
		}
		if err := errors.Join(closeFolder(dir), heldNames(filepath.Dir(dir))); err != nil {
			unlock()
			return nil, fmt.Errorf("%s %s: %w", key, dir, err)
		}
		f, err := lockInTime(filepath.Join(dir, "berthd.lock"))
		if errors.Is(err, errLocked) {
			unlock()
			return nil, fmt.Errorf("%s %s: another berthd uses it; stop that one or choose another --%s", key, dir, key)
		}
		if err != nil {
			unlock()
			return nil, fmt.Errorf("%s %s: is not writable: %w", key, dir, err)
		}
		locks = append(locks, f)
	}
	return unlock, nil
}
