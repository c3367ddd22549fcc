package spec

import (
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzConfigs makes a container of whatever bytes are a pod's and a container's
// configuration: it is refused or it is one, and never a panic. What comes out
// stays in a cgroup of the pod's, whatever was asked.
func FuzzConfigs(f *testing.F) {
	for _, changes := range [][]change{nil, {withEverything}, {asPrivileged}, {hostEverything}, {asUser}} {
		in := request(changes...)
		pod, err := proto.Marshal(in.Pod)
		if err != nil {
			f.Fatal(err)
		}
		container, err := proto.Marshal(in.Container)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(pod, container)
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, pod, container []byte) {
		in := request()
		in.Pod, in.Container = &runtimeapi.PodSandboxConfig{}, &runtimeapi.ContainerConfig{}
		if proto.Unmarshal(pod, in.Pod) != nil || proto.Unmarshal(container, in.Container) != nil {
			return
		}
		s, err := Container(in)
		if err != nil {
			return
		}
		if s.Process == nil || s.Linux == nil || s.Linux.CgroupsPath == "" {
			t.Errorf("half a specification: %+v", s)
		}
		if _, err := Pause(in, "/rootfs"); err != nil {
			t.Logf("pause: %v", err)
		}
	})
}
