package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/snapshot/durable"
)

// Names of a pod's files: the first two under podEtc, the last under podFiles.
const (
	resolvConf   = "resolv.conf"
	hostnameFile = "hostname"
	shmDir       = "shm"
)

// hostResolvConf is what a pod without a DNS configuration gets a copy of.
const hostResolvConf = "/etc/resolv.conf"

// maxResolvConf bounds the host's resolv.conf, in bytes.
const maxResolvConf = 1 << 20

// addFiles makes the files that kubelet leaves to the runtime: resolv.conf,
// hostname, and /dev/shm when the pod has its own IPC namespace.
func (ps *Pods) addFiles(_ context.Context, p *Pod) error {
	r := p.Record()
	dir, etc := ps.opts.podFiles(r.ID), ps.opts.podEtc(r.ID)
	for _, d := range []string{dir, etc} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("pod files: %w", err)
		}
	}
	dns, err := resolvText(r.Config().GetDnsConfig())
	if err != nil {
		return err
	}
	owner := int(r.userNamespace().HostID) // the pod's root
	name, err := podHostname(r)
	if err != nil {
		return err
	}
	for file, text := range map[string]string{resolvConf: dns, hostnameFile: name + "\n"} {
		path := filepath.Join(etc, file)
		if err := durable.Replace(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("pod files: %w", err)
		}
		if err := os.Chown(path, owner, owner); err != nil {
			return fmt.Errorf("pod files: %w", err)
		}
	}
	label, err := ps.labelPodFiles(r)
	if err != nil || r.namespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE {
		return err
	}
	shm := filepath.Join(dir, shmDir)
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return fmt.Errorf("pod files: %w", err)
	}
	return mountShm(shm, owner, label)
}

func (ps *Pods) delFiles(_ context.Context, p *Pod) error {
	id := p.Record().ID
	if err := os.RemoveAll(ps.opts.podEtc(id)); err != nil {
		return fmt.Errorf("pod files: %w", err)
	}
	return removePodFiles(ps.opts.podFiles(id))
}

// removePodFiles removes a pod's state folder and what is mounted in it.
func removePodFiles(dir string) error {
	if err := unmount(filepath.Join(dir, shmDir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("pod files: %w", err)
	}
	return nil
}

// podHostname is the pod's name for itself: the host's when kubelet gives none.
// The CRI allows that with the host's network only, but critest and crictl do it
// always.
func podHostname(r PodRecord) (string, error) {
	if h := r.Config().GetHostname(); h != "" {
		return h, nil
	}
	h, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("hostname: %w", err)
	}
	return h, nil
}

// resolvText is the resolv.conf of a pod. One without a configuration of its own
// gets the host's.
func resolvText(d *runtimeapi.DNSConfig) (string, error) {
	if len(d.GetServers())+len(d.GetSearches())+len(d.GetOptions()) == 0 {
		return hostResolvText()
	}
	var b strings.Builder
	if s := d.GetSearches(); len(s) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(s, " "))
	}
	for _, s := range d.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if o := d.GetOptions(); len(o) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(o, " "))
	}
	return b.String(), nil
}

func hostResolvText() (string, error) {
	f, err := os.Open(hostResolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("resolv.conf of the host: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return "", fmt.Errorf("resolv.conf of the host: %w", err)
	}
	return string(data), nil
}
