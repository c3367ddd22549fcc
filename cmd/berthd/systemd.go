package main

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// tell says to systemd, if it started this process, what the daemon does
// (sd_notify(3)). state is one of its words, as READY=1, or "".
func tell(state, text string) {
	if state != "" {
		state += "\n"
	}
	_, _ = daemon.SdNotify(false, state+"STATUS="+text) // whoever started it need not listen
}

// keepAlive tells systemd's watchdog, where there is one, that the daemon is alive
// (sd_watchdog_enabled(3)): for as long as it answers on its own socket. One that
// does not is ended by systemd and started again, which harms no container. It
// returns when ctx ends.
func keepAlive(ctx context.Context, socket string, text func() string) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 3) // a single late answer is not the end
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := answers(ctx, socket, interval/3); err != nil {
			if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Not answering on its own socket; systemd's watchdog is not told", "socket", socket)
			}
			continue
		}
		tell(daemon.SdNotifyWatchdog, text())
	}
}

// answers asks the daemon at socket its version, over a connection of its own.
func answers(ctx context.Context, socket string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("socket %s: %w", socket, err)
	}
	defer conn.Close()
	_, err = runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	return err
}
