package contract

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func resourceRows(f *fixture) map[string]row {
	update := func(id string) proto.Message {
		return &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512}}
	}
	updatePod := func(id string) proto.Message {
		return &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 512}}
	}
	return map[string]row{
		"UpdateContainerResources": {
			missing: one(update(nobody), codes.NotFound), empty: one(update(""), codes.InvalidArgument),
			null:  one(&runtimeapi.UpdateContainerResourcesRequest{}, codes.InvalidArgument),
			state: one(update(f.exited), codes.FailedPrecondition), duplicate: none("an update may be repeated"), valid: update(f.running),
		},
		"UpdatePodSandboxResources": {
			missing: one(updatePod(nobody), codes.NotFound), empty: one(updatePod(""), codes.InvalidArgument),
			null:  one(&runtimeapi.UpdatePodSandboxResourcesRequest{}, codes.InvalidArgument),
			state: none("it must not fail for want of work"), duplicate: none("an update may be repeated"), valid: updatePod(f.ready),
		},
	}
}

func processRows(f *fixture) map[string]row {
	reopen := func(id string) proto.Message { return &runtimeapi.ReopenContainerLogRequest{ContainerId: id} }
	sync := func(id string, cmd ...string) proto.Message {
		return &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd}
	}
	exec := func(id string, tty, in, out, err bool, cmd ...string) proto.Message {
		return &runtimeapi.ExecRequest{ContainerId: id, Tty: tty, Stdin: in, Stdout: out, Stderr: err, Cmd: cmd}
	}
	attach := func(id string, tty, in, out, err bool) proto.Message {
		return &runtimeapi.AttachRequest{ContainerId: id, Tty: tty, Stdin: in, Stdout: out, Stderr: err}
	}
	forward := func(id string, ports ...int32) proto.Message {
		return &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports}
	}
	return map[string]row{
		"ReopenContainerLog": {
			missing: one(reopen(nobody), codes.NotFound), empty: one(reopen(""), codes.InvalidArgument), null: one(reopen(""), codes.InvalidArgument),
			state: []cell{
				named("created", reopen(f.created), codes.FailedPrecondition), named("exited", reopen(f.exited), codes.FailedPrecondition),
			},
			duplicate: none("a log may be opened anew at any time"), valid: reopen(f.running),
		},
		"ExecSync": {
			missing: one(sync(nobody, "true"), codes.NotFound), empty: one(sync("", "true"), codes.InvalidArgument),
			null: []cell{
				named("all", &runtimeapi.ExecSyncRequest{}, codes.InvalidArgument), named("command", sync(f.running), codes.InvalidArgument),
			},
			state: []cell{
				named("created", sync(f.created, "true"), codes.FailedPrecondition), named("exited", sync(f.exited, "true"), codes.FailedPrecondition),
				named("negative timeout", &runtimeapi.ExecSyncRequest{ContainerId: f.running, Cmd: []string{"true"}, Timeout: -1}, codes.InvalidArgument),
				named("beyond its time", &runtimeapi.ExecSyncRequest{ContainerId: f.running, Cmd: []string{"sleep", "1000"}, Timeout: 1}, codes.DeadlineExceeded),
			},
			duplicate: none("a command may be run again"), valid: sync(f.running, "true"),
		},
		"Exec": {
			missing: one(exec(nobody, false, false, true, false, "true"), codes.NotFound),
			empty:   one(exec("", false, false, true, false, "true"), codes.InvalidArgument),
			null: []cell{
				named("all", &runtimeapi.ExecRequest{}, codes.InvalidArgument),
				named("command", exec(f.running, false, false, true, false), codes.InvalidArgument),
			},
			state: []cell{
				named("created", exec(f.created, false, false, true, false, "true"), codes.FailedPrecondition),
				named("exited", exec(f.exited, false, false, true, false, "true"), codes.FailedPrecondition),
				named("terminal and stderr", exec(f.running, true, false, true, true, "true"), codes.InvalidArgument),
				named("no stream", exec(f.running, false, false, false, false, "true"), codes.InvalidArgument),
			},
			duplicate: none("a command may be run again"), valid: exec(f.running, false, false, true, false, "true"),
		},
		"Attach": {
			missing: one(attach(nobody, false, false, true, false), codes.NotFound),
			empty:   one(attach("", false, false, true, false), codes.InvalidArgument), null: one(&runtimeapi.AttachRequest{}, codes.InvalidArgument),
			state: []cell{
				named("created", attach(f.created, false, false, true, false), codes.FailedPrecondition),
				named("exited", attach(f.exited, false, false, true, false), codes.FailedPrecondition),
				named("terminal and stderr", attach(f.running, true, false, true, true), codes.InvalidArgument),
				named("no stream", attach(f.running, false, false, false, false), codes.InvalidArgument),
				named("a terminal that it has not", attach(f.running, true, false, true, false), codes.InvalidArgument),
			},
			duplicate: none("several may be attached"), valid: attach(f.running, false, false, true, false),
		},
		"PortForward": {
			missing: one(forward(nobody, 80), codes.NotFound), empty: one(forward("", 80), codes.InvalidArgument),
			null: one(&runtimeapi.PortForwardRequest{}, codes.InvalidArgument),
			state: []cell{
				named("stopped", forward(f.stopped, 80), codes.FailedPrecondition),
				named("port 0", forward(f.ready, 0), codes.InvalidArgument), named("port beyond the last", forward(f.ready, 65536), codes.InvalidArgument),
			},
			duplicate: none("several may forward"), valid: forward(f.ready, 80),
		},
	}
}

func statsRows(f *fixture) map[string]row {
	stats := func(id string) proto.Message { return &runtimeapi.ContainerStatsRequest{ContainerId: id} }
	podStats := func(id string) proto.Message { return &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id} }
	return map[string]row{
		"ContainerStats": {
			missing: one(stats(nobody), codes.NotFound), empty: one(stats(""), codes.InvalidArgument), null: one(stats(""), codes.InvalidArgument),
			state: none("what there is of a stopped one is told"), duplicate: none(onlyReads), valid: stats(f.running),
		},
		"ListContainerStats": listing(
			&runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: nobody}},
			&runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{}}, &runtimeapi.ListContainerStatsRequest{}),
		"StreamContainerStats": listing(
			&runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: nobody}},
			&runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{}}, &runtimeapi.StreamContainerStatsRequest{}),
		"PodSandboxStats": { // kubelet probes it with the empty ID at its start: anything but Unimplemented will do
			missing: one(podStats(nobody), codes.NotFound), empty: one(podStats(""), codes.InvalidArgument), null: one(podStats(""), codes.InvalidArgument),
			state: none("what there is of a stopped one is told"), duplicate: none(onlyReads), valid: podStats(f.ready),
		},
		"ListPodSandboxStats": listing(
			&runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: nobody}},
			&runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{}}, &runtimeapi.ListPodSandboxStatsRequest{}),
		"StreamPodSandboxStats": listing(
			&runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: nobody}},
			&runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{}}, &runtimeapi.StreamPodSandboxStatsRequest{}),
		"ListMetricDescriptors":   all(&runtimeapi.ListMetricDescriptorsRequest{}),
		"ListPodSandboxMetrics":   all(&runtimeapi.ListPodSandboxMetricsRequest{}),
		"StreamPodSandboxMetrics": all(&runtimeapi.StreamPodSandboxMetricsRequest{}),
	}
}

func nodeRows(*fixture) map[string]row {
	events := row{missing: none(noID), empty: none(noID), null: none("its request has no field, and the stream has no end"),
		state: none(noState), duplicate: none("several may listen"), valid: &runtimeapi.GetEventsRequest{}, endless: true}
	return map[string]row{
		"Version":             all(&runtimeapi.VersionRequest{}),
		"Status":              all(&runtimeapi.StatusRequest{}),
		"RuntimeConfig":       all(&runtimeapi.RuntimeConfigRequest{}),
		"UpdateRuntimeConfig": all(&runtimeapi.UpdateRuntimeConfigRequest{}),
		"GetContainerEvents":  events,
	}
}

// checkpointRows are the RPCs that are not built.
func checkpointRows(f *fixture) map[string]row {
	notBuilt := func(unknown, empty, valid proto.Message) row {
		return row{missing: one(unknown, codes.Unimplemented), empty: one(empty, codes.Unimplemented), null: one(empty, codes.Unimplemented),
			state: none("not built"), duplicate: none("not built"), valid: valid}
	}
	return map[string]row{
		"CheckpointContainer": notBuilt(&runtimeapi.CheckpointContainerRequest{ContainerId: nobody, Location: "/c.tar"},
			&runtimeapi.CheckpointContainerRequest{}, &runtimeapi.CheckpointContainerRequest{ContainerId: f.running, Location: "/c.tar"}),
		"CheckpointPod": notBuilt(&runtimeapi.CheckpointPodRequest{PodSandboxId: nobody},
			&runtimeapi.CheckpointPodRequest{}, &runtimeapi.CheckpointPodRequest{PodSandboxId: f.ready}),
		"RestorePod": notBuilt(&runtimeapi.RestorePodRequest{CheckpointPath: "/none"},
			&runtimeapi.RestorePodRequest{}, &runtimeapi.RestorePodRequest{CheckpointPath: "/none", Config: f.pod}),
	}
}

func imageRows() map[string]row {
	spec := func(name string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: name} }
	status := func(name string) proto.Message { return &runtimeapi.ImageStatusRequest{Image: spec(name)} }
	pull := func(name string) proto.Message { return &runtimeapi.PullImageRequest{Image: spec(name)} }
	remove := func(name string) proto.Message { return &runtimeapi.RemoveImageRequest{Image: spec(name)} }
	const other = "docker.io/library/tick:latest"
	return map[string]row{
		"ListImages": listing(
			&runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec(absent)}},
			&runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec("")}}, &runtimeapi.ListImagesRequest{}),
		"StreamImages": listing(
			&runtimeapi.StreamImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec(absent)}},
			&runtimeapi.StreamImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec("")}}, &runtimeapi.StreamImagesRequest{}),
		"ImageStatus": {
			missing: one(status(absent), codes.OK), empty: one(status(""), codes.InvalidArgument),
			null:  one(&runtimeapi.ImageStatusRequest{}, codes.InvalidArgument),
			state: none(noState), duplicate: none(onlyReads), valid: status(busybox),
		},
		"PullImage": {
			missing: []cell{
				named("image", pull(absent), codes.NotFound),
				named("handler", &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: busybox, RuntimeHandler: "nonesuch"}}, codes.InvalidArgument),
			},
			empty: one(pull(""), codes.InvalidArgument), null: one(&runtimeapi.PullImageRequest{}, codes.InvalidArgument),
			state:     []cell{named("no reference", pull("UPPER/../case:@"), codes.InvalidArgument)},
			duplicate: one(pull(busybox), codes.OK), valid: pull(other),
		},
		"RemoveImage": {
			missing: one(remove(absent), codes.OK), empty: one(remove(""), codes.InvalidArgument),
			null:  one(&runtimeapi.RemoveImageRequest{}, codes.InvalidArgument),
			state: none("an image may go while containers run"), duplicate: none("a removed image is an unknown one"), valid: remove(busybox),
		},
		"ImageFsInfo": all(&runtimeapi.ImageFsInfoRequest{}),
	}
}
