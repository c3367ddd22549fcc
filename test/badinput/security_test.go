package badinput

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestHugeUserFiles makes /etc/passwd and /etc/group of an image 10 GB long,
// sparse, and asks for a user (CVE-2026-47262): an error at once, and berthd has
// read none of it.
func TestHugeUserFiles(t *testing.T) {
	s := openWith(t, "", "[snapshot]\ndriver = 'overlay'") // whose files the test can change
	ctx := t.Context()
	if _, err := s.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("huge", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/passwd", "etc/group"} {
		path := s.unpacked(t, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 10<<30); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		conf := node.Container("c-"+filepath.Base(name), busybox, "true")
		conf.Linux.SecurityContext.RunAsUsername = "www-data"
		_, err = s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: conf, SandboxConfig: pod})
		if err == nil || !strings.Contains(status.Convert(err).Message(), name) {
			t.Errorf("%s of 10 GB: %v; want an error that names it", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		if err := os.Truncate(path, info.Size()); err != nil {
			t.Fatal(err)
		}
	}
	if peak := s.peak(t); peak > 300<<20 {
		t.Errorf("berthd has used %d MB", peak>>20)
	}
	s.close(t)
}

// unpacked finds a file of the one image on the disk.
func (s *suite) unpacked(t *testing.T, name string) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(filepath.Join(s.node.Root, "snapshots"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "/"+name) && d.Type().IsRegular() {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no %s among the snapshots: %v", name, err)
	}
	return found
}

// peak is the most memory that the daemon ever had, in bytes.
func (s *suite) peak(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.node.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// TestImageUserNumbers: a USER that is no number of a user becomes neither user
// 0 nor a name to look for (CVE-2024-40635, CVE-2026-46680); a name that would be
// two lines or two fields is none (CVE-2026-15809).
func TestImageUserNumbers(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	h := newHostile(t, s.world.Certs)
	pod := node.Pod("users", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	for i, user := range []string{"2147483648", "4294967294", "4294967295", "4294967296", "18446744073709551616", "-1", "+0", "0x0", "00x",
		"0:4294967296", "0:-1", "root\nx:x:0:0", "root\r", "a:b:c", ":0", "root:", " root", "\x00"} {
		h.set(makeImage(t, []edit{func(c *ocispec.Image, _ *ocispec.Manifest) { c.Config.User = user }}, passwd()...))
		if _, err := s.Pull(ctx, image); err != nil {
			t.Logf("%q: not even pulled: %v", user, err)
			continue
		}
		got, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		if img := got.GetImage(); err != nil || (img.GetUsername() == "") != (img.GetUid() != nil && img.GetUid().GetValue() == 0 && strings.HasPrefix(user, "0:")) {
			t.Errorf("%q: kubelet is told user %v and name %q; only a name, or 0, makes it refuse runAsNonRoot", user, img.GetUid(), img.GetUsername())
		}
		conf := node.Container(fmt.Sprintf("c%d", i), image, "/bin/true")
		_, err = s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: conf, SandboxConfig: pod})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v, want InvalidArgument", user, err)
		}
		s.removeImage(t)
	}
	s.close(t)
}

// passwd are the files of an image with a root.
func passwd() []tar.Header {
	return []tar.Header{{Name: "bin/", Typeflag: tar.TypeDir}, {Name: "bin/true", Typeflag: tar.TypeReg}, {Name: "etc/", Typeflag: tar.TypeDir}}
}

// TestImageWordsAreNoPolicy: labels, variables and volumes of an image that
// imitate what runtimes and kubelet write change nothing but the container's own
// environment and files (CVE-2026-53488, CVE-2022-23648).
func TestImageWordsAreNoPolicy(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	h := newHostile(t, s.world.Certs)
	outside := filepath.Join(t.TempDir(), "run-by-a-label")
	h.set(makeImage(t, []edit{func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.Config.Labels = map[string]string{
			"containerd.io/restart.loguri": "binary:///bin/touch?" + outside, "io.kubernetes.pod.name": "other", "io.cri-containerd.kind": "sandbox",
			"cdi.k8s.io/devices": "vendor.test/device=all", "io.berth/pod": "other", "org.systemd.property.ExecStop": "touch " + outside,
		}
		c.Config.Env = []string{"HOME=/\nroot2:x:0:0::/:/bin/sh", "LD_PRELOAD=/evil.so", "BERTH=1"}
		c.Config.Volumes = map[string]struct{}{"/../../etc": {}, "/data": {}}
	}}, passwd()...))
	if _, err := s.Pull(ctx, image); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("words", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	conf := node.Container("c", image, "/bin/true")
	made, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: conf, SandboxConfig: pod})
	if err == nil {
		resp, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: made.GetContainerId(), Verbose: true})
		st := resp.GetStatus()
		if err != nil || len(st.GetLabels())+len(st.GetAnnotations())+len(st.GetMounts()) != 0 || st.GetMetadata().GetName() != "c" {
			t.Errorf("status %v, %v", st, err)
		}
	} else {
		t.Logf("refused, which is fine: %v", err)
	}
	list, err := s.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.GetItems()) != 1 || list.GetItems()[0].GetMetadata().GetName() != "words" {
		t.Errorf("pods %v, %v", list, err)
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a label was run")
	}
	s.close(t)
}

// TestWorkingDirOfDescriptors starts containers in what might be a descriptor of
// the daemon's (CVE-2024-21626): none of them sees the node's files.
func TestWorkingDirOfDescriptors(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	if _, err := s.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("fds", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 16 {
		name := fmt.Sprintf("fd%d", n)
		conf := node.Container(name, busybox, "sh", "-c", "cat ../../../../../../../../"+s.node.Config+"; pwd; true")
		conf.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", n)
		c, err := s.Run(ctx, id, pod, conf)
		if err != nil {
			continue // refused is fine
		}
		s.ends(t, c)
		log, err := os.ReadFile(filepath.Join(s.logs, name+".log"))
		if err != nil || strings.Contains(string(log), "conf_dir") {
			t.Errorf("%s: %v: %s", conf.WorkingDir, err, log)
		}
	}
	s.close(t)
}

// ends waits for a container's end.
func (s *suite) ends(t *testing.T, id string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still %v", resp.GetStatus().GetState())
		}
	}
}

// TestWhatOthersReach: the daemon's folders are not others' to list or write
// (CVE-2024-25621), and no socket of ours has an abstract name, which every pod
// on the host's network could reach (CVE-2020-15257).
func TestWhatOthersReach(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	if _, err := s.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("reach", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(ctx, id, pod, node.Container("c", busybox, "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.node.Root, s.node.State} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o066 != 0 {
				t.Errorf("%s: %v", filepath.Join(dir, e.Name()), info.Mode())
			}
		}
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) > 7 && strings.HasPrefix(f[7], "@") && (strings.Contains(f[7], "berth") || strings.Contains(f[7], "shim")) {
			t.Errorf("abstract socket %s", f[7])
		}
	}
	info, err := os.Stat(s.node.Socket)
	if err != nil || info.Mode().Perm()&0o077 != 0 { // group 0 is also that of users who are not root
		t.Errorf("the CRI socket: %v, %v", info.Mode(), err)
	}
	s.close(t)
}
