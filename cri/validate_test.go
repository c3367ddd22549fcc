package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
)

func goodPod() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "default", Uid: "u"},
		LogDirectory: "/var/log/pods/x",
		Linux:        &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kubepods/pod1"},
	}
}

func goodContainer() *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "web"},
		Image:    &runtimeapi.ImageSpec{Image: "web"},
		LogPath:  "web/0.log",
		Mounts:   []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/srv"}},
	}
}

func TestCheckPodConfig(t *testing.T) {
	sc := func(f func(*runtimeapi.LinuxSandboxSecurityContext)) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}
			f(c.Linux.SecurityContext)
		}
	}
	for name, tt := range map[string]struct {
		edit func(*runtimeapi.PodSandboxConfig)
		want error
	}{
		"as kubelet sends it": {func(*runtimeapi.PodSandboxConfig) {}, nil},
		"no metadata":         {func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }, errInvalid},
		"no name":             {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" }, errInvalid},
		"a name that climbs":  {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = ".." }, errInvalid},
		"a name with a slash": {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "a/b" }, errInvalid},
		"a CNI argument":      {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "x;K8S_POD_NAME=y" }, errInvalid},
		"a newline":           {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "a\nb" }, errInvalid},
		"a long name":         {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = strings.Repeat("a", 254) }, errInvalid},
		"relative log folder": {func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" }, errInvalid},
		"a systemd slice":     {func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "kubepods-pod1.slice" }, nil},
		"relative cgroup":     {func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "kubepods" }, errInvalid},
		"climbing cgroup":     {func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" }, errInvalid},
		"a line for resolv.conf": {func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1\nnameserver 6.6.6.6"}}
		}, errInvalid},
		"no Linux part": {func(c *runtimeapi.PodSandboxConfig) { c.Linux = nil }, nil},
		"group without user": {sc(func(s *runtimeapi.LinuxSandboxSecurityContext) { s.RunAsGroup = &runtimeapi.Int64Value{Value: 1} }),
			errInvalid},
		"network of a target": {sc(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.NamespaceOptions.Network = runtimeapi.NamespaceMode_TARGET
		}), errInvalid},
		"user namespace without mappings": {sc(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
		}), spec.ErrInvalid},
		"user namespace": {sc(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			m := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
			s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
		}), nil},
		"user namespace of a target": {sc(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET}
		}), spec.ErrInvalid},
		"the node's user namespace": {sc(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
		}), nil},
	} {
		c := goodPod()
		tt.edit(c)
		if err := checkPodConfig(c); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if err := checkPodConfig(nil); !errors.Is(err, errInvalid) {
		t.Errorf("nil: %v", err)
	}
}

func TestCheckContainerConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*runtimeapi.ContainerConfig)
		want error
	}{
		"as kubelet sends it":     {func(*runtimeapi.ContainerConfig) {}, nil},
		"no metadata":             {func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }, errInvalid},
		"no name":                 {func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "" }, errInvalid},
		"no image":                {func(c *runtimeapi.ContainerConfig) { c.Image = nil }, errInvalid},
		"a log path that climbs":  {func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../etc/cron.d/x" }, errInvalid},
		"the log folder itself":   {func(c *runtimeapi.ContainerConfig) { c.LogPath = "./" }, errInvalid},
		"a newline in a log path": {func(c *runtimeapi.ContainerConfig) { c.LogPath = "a\nb.log" }, errInvalid},
		"no such signal":          {func(c *runtimeapi.ContainerConfig) { c.StopSignal = 999 }, errInvalid},
		"an absolute log path":    {func(c *runtimeapi.ContainerConfig) { c.LogPath = "/etc/passwd" }, errInvalid},
		"relative working folder": {func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "work" }, errInvalid},
		"relative mount point":    {func(c *runtimeapi.ContainerConfig) { c.Mounts[0].ContainerPath = "data" }, errInvalid},
		"relative host path":      {func(c *runtimeapi.ContainerConfig) { c.Mounts[0].HostPath = "srv" }, errInvalid},
		"no log":                  {func(c *runtimeapi.ContainerConfig) { c.LogPath = "" }, nil},
	} {
		c := goodContainer()
		tt.edit(c)
		if err := checkContainerConfig(c); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// Whatever a client sends, checking it neither panics nor takes long.
func FuzzChecks(f *testing.F) {
	for _, m := range []proto.Message{goodPod(), goodContainer(), &runtimeapi.PodSandboxConfig{}, &runtimeapi.ContainerConfig{}} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p runtimeapi.PodSandboxConfig
		if proto.Unmarshal(data, &p) == nil {
			_ = checkPodConfig(&p)
		}
		var c runtimeapi.ContainerConfig
		if proto.Unmarshal(data, &c) == nil {
			_ = checkContainerConfig(&c)
		}
	})
}

func TestToStatus(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("pod x: stage: %w", err) }
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{errInvalid, codes.InvalidArgument},
		{sandbox.ErrNotFound, codes.NotFound},
		{sandbox.ErrBadState, codes.FailedPrecondition},
		{sandbox.ErrNameTaken, codes.AlreadyExists},
		{sandbox.ErrUnknownHandler, codes.InvalidArgument},
		{sandbox.ErrAmbiguous, codes.InvalidArgument},
		{imageservice.ErrNotFound, codes.NotFound},
		{imageservice.ErrUnavailable, codes.Unknown},
		{fmt.Errorf("%w: %w", imageservice.ErrUnavailable, context.DeadlineExceeded), codes.Unknown}, // the registry's, not the caller's
		{netns.ErrInvalidSysctl, codes.InvalidArgument},
		{netns.ErrNotReady, codes.Unavailable},
		{shim.ErrTimeout, codes.DeadlineExceeded},
		{shim.ErrRefused, codes.Unknown},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{syscall.ENOSPC, codes.ResourceExhausted},
		{errors.New("anything"), codes.Unknown},
	} {
		got := toStatus(wrap(tt.err))
		if status.Code(got) != tt.want || !strings.HasPrefix(status.Convert(got).Message(), "pod x: stage: ") {
			t.Errorf("%v: %v, want %s and the whole text", tt.err, got, tt.want)
		}
	}
	if toStatus(nil) != nil {
		t.Error("no error became one")
	}
	if got := toStatus(status.Error(codes.Aborted, "kept")); status.Code(got) != codes.Aborted {
		t.Errorf("a code was changed: %v", got)
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct{ a, b, wantA, wantB int }{
		{3, 4, 3, 4}, {10, 0, 10, 0}, {20, 0, 10, 0}, {0, 20, 0, 10}, {20, 20, 5, 5}, {20, 2, 8, 2}, {2, 20, 2, 8}, {5, 6, 5, 5},
	} {
		a, b := fit(make([]byte, tt.a), make([]byte, tt.b), 10)
		if len(a) != tt.wantA || len(b) != tt.wantB {
			t.Errorf("fit(%d, %d) = %d, %d; want %d, %d", tt.a, tt.b, len(a), len(b), tt.wantA, tt.wantB)
		}
	}
}

func TestLists(t *testing.T) {
	labels := map[string]string{"a": "1", "b": ""}
	for name, tt := range map[string]struct {
		want map[string]string
		ok   bool
	}{
		"none": {nil, true}, "one": {map[string]string{"a": "1"}, true}, "other value": {map[string]string{"a": "2"}, false},
		"empty value": {map[string]string{"b": ""}, true}, "absent with empty value": {map[string]string{"c": ""}, false},
	} {
		if labelsMatch(labels, tt.want) != tt.ok {
			t.Errorf("%s: not %t", name, tt.ok)
		}
	}
	if seconds(-5) != 0 || seconds(1<<62) <= 0 {
		t.Error("seconds overflow")
	}
}
