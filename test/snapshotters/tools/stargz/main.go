// The containerd-stargz-grpc program is stargz-snapshotter, of the version in go.mod, for
// tests: its service, on the socket and with the folder and settings of its own program of
// that name. That program's module is in no module proxy, so the few lines that make a
// process of the service are here, with registries' credentials from Docker's settings alone.
// SIGTERM and SIGINT end it, and unmount all.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/keychain/dockerconfig"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
)

func main() {
	address := flag.String("address", "/run/containerd-stargz-grpc/containerd-stargz-grpc.sock", "unix socket to serve on")
	root := flag.String("root", "/var/lib/containerd-stargz-grpc", "folder of the snapshots")
	config := flag.String("config", "/etc/containerd-stargz-grpc/config.toml", "settings; an absent file has none")
	flag.Parse()
	if err := serve(*address, *root, *config); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-stargz-grpc:", err)
		os.Exit(1)
	}
}

func serve(address, root, config string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var c service.Config
	data, err := os.ReadFile(config)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := toml.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	s, err := service.NewStargzSnapshotterService(ctx, root, &c, service.WithCredsFuncs(dockerconfig.NewDockerconfigKeychain(ctx)))
	if err != nil {
		return err
	}
	rpc := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(rpc, snapshotservice.FromSnapshotter(s))
	if err := os.RemoveAll(address); err != nil {
		return err
	}
	l, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	rpc.Stop()
	return s.Close()
}
