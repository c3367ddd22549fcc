package contract

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A cell is one request and the code of its answer. No cell changes anything:
// those with OK ask for what is so already.
type cell struct {
	name string
	req  proto.Message
	want codes.Code
	not  string // why there is no such request, when req is nil
}

// A row is an RPC's answers to every way of asking wrongly, and a request that
// would do something if it were let through.
type row struct {
	missing   []cell // an ID, or a name, that nothing has
	empty     []cell // the empty one
	null      []cell // an empty request, or one with a nil message in it
	state     []cell // a state that does not allow it, or a bad combination
	duplicate []cell // what was done already
	valid     proto.Message
	endless   bool // a stream that ends only with its caller
}

func (r row) columns() map[string][]cell {
	return map[string][]cell{"missing ID": r.missing, "empty ID": r.empty, "nil message": r.null, "wrong state": r.state, "duplicate": r.duplicate}
}

func none(why string) []cell { return []cell{{not: why}} }

func one(req proto.Message, want codes.Code) []cell { return []cell{{req: req, want: want}} }

func named(name string, req proto.Message, want codes.Code) cell {
	return cell{name: name, req: req, want: want}
}

const (
	noID      = "takes no ID"
	noState   = "may be called in every state"
	onlyReads = "it only reads"
)

// table is the law: cri-contract 1.3 for every RPC. The fixture's zero value
// will do to look at its rows.
func table(f *fixture) map[string]row {
	out := map[string]row{}
	for _, part := range []map[string]row{
		podRows(f), containerRows(f), resourceRows(f), processRows(f), statsRows(f), nodeRows(f), checkpointRows(f), imageRows(),
	} {
		for name, r := range part {
			out[name] = r
		}
	}
	return out
}

// all is the row of an RPC that has nothing to ask wrongly.
func all(req proto.Message) row {
	return row{missing: none(noID), empty: none(noID), null: one(req, codes.OK), state: none(noState), duplicate: none(onlyReads), valid: req}
}

// listing is the row of a list with a filter: what matches nothing is empty.
func listing(unknown, emptyID, null proto.Message) row {
	return row{
		missing: one(unknown, codes.OK), empty: one(emptyID, codes.OK), null: one(null, codes.OK),
		state: none(noState), duplicate: none(onlyReads), valid: null,
	}
}

func podRows(f *fixture) map[string]row {
	edit := func(change func(*runtimeapi.PodSandboxConfig)) proto.Message {
		c := &runtimeapi.PodSandboxConfig{}
		if f.pod != nil {
			c = proto.Clone(f.pod).(*runtimeapi.PodSandboxConfig)
			c.Metadata.Name = "new"
			change(c)
		}
		return &runtimeapi.RunPodSandboxRequest{Config: c}
	}
	stop := func(id string) proto.Message { return &runtimeapi.StopPodSandboxRequest{PodSandboxId: id} }
	remove := func(id string) proto.Message { return &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id} }
	status := func(id string) proto.Message { return &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id} }
	return map[string]row{
		"RunPodSandbox": {
			missing: []cell{named("handler", &runtimeapi.RunPodSandboxRequest{Config: f.pod, RuntimeHandler: "nonesuch"}, codes.InvalidArgument)},
			empty: []cell{
				named("name", edit(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" }), codes.InvalidArgument),
				named("namespace", edit(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "" }), codes.InvalidArgument),
				named("uid", edit(func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" }), codes.InvalidArgument),
			},
			null: []cell{
				named("config", &runtimeapi.RunPodSandboxRequest{}, codes.InvalidArgument),
				named("all of config", &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{}}, codes.InvalidArgument),
				named("metadata", edit(func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }), codes.InvalidArgument),
			},
			state: []cell{
				named("group without user", edit(func(c *runtimeapi.PodSandboxConfig) {
					c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
				}), codes.InvalidArgument),
				named("the name of a stopped pod", &runtimeapi.RunPodSandboxRequest{Config: f.stoppedPod}, codes.AlreadyExists),
			},
			duplicate: one(&runtimeapi.RunPodSandboxRequest{Config: f.pod}, codes.OK),
			valid:     edit(func(*runtimeapi.PodSandboxConfig) {}),
		},
		"StopPodSandbox": {
			missing: one(stop(nobody), codes.OK), empty: one(stop(""), codes.InvalidArgument), null: one(stop(""), codes.InvalidArgument),
			state: none(noState), duplicate: one(stop(f.stopped), codes.OK), valid: stop(f.ready),
		},
		"RemovePodSandbox": {
			missing: one(remove(nobody), codes.OK), empty: one(remove(""), codes.InvalidArgument), null: one(remove(""), codes.InvalidArgument),
			state: none(noState), duplicate: none("a removed pod is an unknown one"), valid: remove(f.stopped),
		},
		"PodSandboxStatus": {
			missing: one(status(nobody), codes.NotFound), empty: one(status(""), codes.InvalidArgument), null: one(status(""), codes.InvalidArgument),
			state: one(status(f.stopped), codes.OK), duplicate: none(onlyReads), valid: status(f.ready),
		},
		"ListPodSandbox": listing(
			&runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: nobody}},
			&runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{}}, &runtimeapi.ListPodSandboxRequest{}),
		"StreamPodSandboxes": listing(
			&runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: nobody}},
			&runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{}}, &runtimeapi.StreamPodSandboxesRequest{}),
	}
}

func containerRows(f *fixture) map[string]row {
	create := func(pod string, change func(*runtimeapi.ContainerConfig)) proto.Message {
		c := &runtimeapi.ContainerConfig{}
		if f.createdConf != nil {
			c = proto.Clone(f.createdConf).(*runtimeapi.ContainerConfig)
			c.Metadata.Name = "new"
			change(c)
		}
		return &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: f.pod}
	}
	same := func(*runtimeapi.ContainerConfig) {}
	start := func(id string) proto.Message { return &runtimeapi.StartContainerRequest{ContainerId: id} }
	stop := func(id string) proto.Message { return &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1} }
	remove := func(id string) proto.Message { return &runtimeapi.RemoveContainerRequest{ContainerId: id} }
	status := func(id string) proto.Message { return &runtimeapi.ContainerStatusRequest{ContainerId: id} }
	return map[string]row{
		"CreateContainer": {
			missing: []cell{
				named("pod", create(nobody, same), codes.NotFound),
				named("image", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Image.Image = absent }), codes.NotFound),
			},
			empty: []cell{
				named("pod", create("", same), codes.InvalidArgument),
				named("name", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "" }), codes.InvalidArgument),
				named("image", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Image.Image = "" }), codes.InvalidArgument),
			},
			null: []cell{
				named("all", &runtimeapi.CreateContainerRequest{}, codes.InvalidArgument),
				named("config", &runtimeapi.CreateContainerRequest{PodSandboxId: f.ready, SandboxConfig: f.pod}, codes.InvalidArgument),
				named("metadata", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }), codes.InvalidArgument),
				named("image", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Image = nil }), codes.InvalidArgument),
				named("a mount", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{{}} }), codes.InvalidArgument),
				named("a device", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.Devices = []*runtimeapi.Device{{}} }), codes.InvalidArgument),
			},
			state: []cell{
				named("a stopped pod", create(f.stopped, same), codes.FailedPrecondition),
				named("group without user", create(f.ready, func(c *runtimeapi.ContainerConfig) {
					c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
				}), codes.InvalidArgument),
				named("relative path", create(f.ready, func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "here" }), codes.InvalidArgument),
			},
			duplicate: one(&runtimeapi.CreateContainerRequest{PodSandboxId: f.ready, Config: f.createdConf, SandboxConfig: f.pod}, codes.OK),
			valid:     create(f.ready, same),
		},
		"StartContainer": {
			missing: one(start(nobody), codes.NotFound), empty: one(start(""), codes.InvalidArgument), null: one(start(""), codes.InvalidArgument),
			state: one(start(f.exited), codes.FailedPrecondition), duplicate: one(start(f.running), codes.FailedPrecondition), valid: start(f.created),
		},
		"StopContainer": {
			missing: one(stop(nobody), codes.OK), empty: one(stop(""), codes.InvalidArgument), null: one(stop(""), codes.InvalidArgument),
			state: none(noState), duplicate: one(stop(f.exited), codes.OK), valid: stop(f.running),
		},
		"RemoveContainer": {
			missing: one(remove(nobody), codes.OK), empty: one(remove(""), codes.InvalidArgument), null: one(remove(""), codes.InvalidArgument),
			state: none(noState), duplicate: none("a removed container is an unknown one"), valid: remove(f.exited),
		},
		"ContainerStatus": {
			missing: one(status(nobody), codes.NotFound), empty: one(status(""), codes.InvalidArgument), null: one(status(""), codes.InvalidArgument),
			state: one(status(f.exited), codes.OK), duplicate: none(onlyReads), valid: status(f.running),
		},
		"ListContainers": listing(
			&runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: nobody}},
			&runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{}}, &runtimeapi.ListContainersRequest{}),
		"StreamContainers": listing(
			&runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: nobody}},
			&runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{}}, &runtimeapi.StreamContainersRequest{}),
	}
}
