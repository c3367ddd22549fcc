// Package config reads berth's settings: one TOML file, every key of it
// optional, a key it does not know an error. It changes nothing on the machine
// and may be called again at any time.
package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DefaultPath is the settings file that Load reads when it is given none. It may
// be absent.
const DefaultPath = "/etc/berth/config.toml"

// Config is the settings. The zero value is not valid: start from Default, Read
// or Load.
type Config struct {
	Root   string `toml:"root" comment:"Survives a reboot: images, root filesystems, records."`
	State  string `toml:"state" comment:"Does not survive a reboot (a tmpfs): sockets, namespaces, bundles."`
	Socket string `toml:"socket" comment:"Unix socket that kubelet and crictl connect to. Empty: berth.sock in the state folder."`

	Log       Log                `toml:"log"`
	Network   Network            `toml:"network"`
	Image     Image              `toml:"image"`
	Shim      Shim               `toml:"shim"`
	Snapshot  Snapshot           `toml:"snapshot"`
	Cgroup    Cgroup             `toml:"cgroup"`
	SELinux   SELinux            `toml:"selinux"`
	CDI       CDI                `toml:"cdi"`
	Devices   Devices            `toml:"devices"`
	Streaming Streaming          `toml:"streaming"`
	Metrics   Metrics            `toml:"metrics"`
	Handlers  map[string]Handler `toml:"handlers" comment:"Runtime handlers by the name that a RuntimeClass gives, as tables [handlers.NAME]. The unnamed default one is always there.\nIn each, path is the program of another OCI runtime, as in path = \"/usr/bin/crun\"; without it the handler is the built-in runtime."`

	ProxyPlugins map[string]ProxyPlugin `toml:"proxy_plugins" comment:"Proxy snapshotters (stargz, nydus, SOCI) that snapshot.driver may name, as tables [proxy_plugins.NAME].\nIn each, address is the unix socket on which its process serves containerd's snapshots API, as in address = \"/run/containerd-stargz-grpc/containerd-stargz-grpc.sock\"."`
}

// Log says how much is logged, and how, by berthd and by containers.
type Log struct {
	Verbosity int    `toml:"verbosity" comment:"0 to 10: klog's -v."`
	Format    string `toml:"format" comment:"\"text\" or \"json\"."`
	RateLimit int64  `toml:"rate_limit" comment:"Bytes per second that go into a container's log; 0 = no limit. What is more is left out, and the log says how much, where it is missing.\nThe container never waits for it. A change is for containers that are created then."`
	RateBurst int64  `toml:"rate_burst" comment:"Bytes that a container may say at once beyond rate_limit. 0 = what rate_limit allows in a second."`
}

// Network says where CNI lives.
type Network struct {
	ConfDir   string   `toml:"conf_dir" comment:"CNI configurations. The first usable file by name is the node's network; changes are seen at once."`
	BinDirs   []string `toml:"bin_dirs" comment:"Folders of the CNI plugins' programs, searched in this order."`
	InProcess bool     `toml:"in_process" comment:"Answer the CNI reference plugins loopback, bridge, ptp, host-local and portmap within berthd, by system calls, in a fraction of the time.\nWhat is on the node afterwards is the same. It needs no programs of theirs; where those in bin_dirs are not the project's own,\nor of a version other than 1.9, or a configuration has what berthd does not know, the programs are run. false: always."`
	Embedded  bool     `toml:"embedded" comment:"While conf_dir has no configuration at all, use a bridge network of berth's own (berth0).\nLeave it off where a network add-on brings the configuration after the node has started."`
}

// Image is about pulling images.
type Image struct {
	CertsDir         string   `toml:"certs_dir" comment:"Mirrors and certificates of registries: HOST/hosts.toml, as containerd reads them."`
	RegistriesConf   string   `toml:"registries_conf" comment:"Mirrors, places and blocked names in the format of CRI-O and podman: /etc/containers/registries.conf, with the *.conf\nof the folder registries.conf.d beside it. A registry's own hosts.toml goes first. Short names stay docker.io's. Empty: none."`
	AuthFile         string   `toml:"auth_file" comment:"Credentials of the node itself, as Docker's config.json or podman's auth.json has them, credential helpers too.\nkubelet's, where it sends some, go first. Empty: none."`
	ParallelLayers   int      `toml:"parallel_layers" comment:"Layers of one image that are fetched and unpacked at once."`
	LayerConnections int      `toml:"layer_connections" comment:"Connections to a registry for one large layer, whose parts come side by side."`
	Connections      int      `toml:"connections" comment:"Connections for layers in all. Each takes 256 KiB of memory, and each layer under way 3 MiB; layers under way are twice parallel_layers at most."`
	Pinned           []string `toml:"pinned" comment:"Images that kubelet must not collect as garbage: names (busybox is docker.io/library/busybox:latest),\nIDs, or patterns of full names, in which * and ? stand for anything but a slash and [a-c] for one of its characters:\nregistry.k8s.io/pause:*"`
}

// Shim is about the processes that keep containers alive.
type Shim struct {
	Binary         string `toml:"binary" comment:"The berth-shim program. Empty: beside berthd, else in $PATH."`
	PodsPerProcess int    `toml:"pods_per_process" comment:"Pods that share one shim process. 1 gives every pod its own."`
	Upgrade        string `toml:"upgrade" comment:"When berthd starts, and at each SIGHUP, shims that run another program than binary names now: \"auto\" has them execute that one, one after the other;\ncontainers and their logs go on, and commands and attachments under way are waited for. \"never\": they stay as they are until their last pod ends."`
}

// What Shim.Upgrade can be.
const (
	UpgradeAuto  = "auto"
	UpgradeNever = "never"
)

// Snapshot is about root filesystems.
type Snapshot struct {
	Driver string `toml:"driver" comment:"How layers are kept. \"overlay\": a folder for each; \"erofs\": three files for each, mounted as one image;\n\"native\": files too, of which each container gets a tree of its own, for file systems that overlayfs does not take (not with SELinux);\n\"btrfs\": files and, for each image and each container, a subvolume, where root is on btrfs (not with SELinux);\nor the NAME of a table [proxy_plugins.NAME], whose process keeps them (no user namespaces, not with SELinux).\nEmpty: as they are kept already, else erofs where the kernel has it. It can change when there are no pods and no images."`

	WritableLimit int64 `toml:"writable_limit" comment:"Bytes that each container may write into its root filesystem, 1048576 at least (10_000_000_000 is 10 GB); 0 = no limit. More is \"no space left\" or\n\"quota exceeded\" in that container. Needs driver erofs or overlay, and root on ext4 or XFS mounted with prjquota, else berthd does not start (docs/operations.md)."`
}

// A ProxyPlugin is a process that keeps layers and root filesystems.
type ProxyPlugin struct {
	Address string `toml:"address" comment:"The unix socket on which it serves containerd's snapshots API. It may start later than berthd, and again at any time."`
}

// Cgroup is about who makes cgroups.
type Cgroup struct {
	Driver string `toml:"driver" comment:"\"cgroupfs\" or \"systemd\"; kubelet asks for it and follows. Empty: systemd where it runs the machine on cgroup v2."`
}

// SELinux is about labels, on a node whose kernel has SELinux.
type SELinux struct {
	Enable bool `toml:"enable" comment:"Confine containers with SELinux, where the kernel has it, and keep pods apart by levels.\nberthd does not start when the node's policy has no types for containers. false: they run with berthd's own label."`
}

// CDI is about devices of the Container Device Interface.
type CDI struct {
	SpecDirs []string `toml:"spec_dirs" comment:"Folders of CDI specifications (https://tags.cncf.io), read for each container that asks for a device.\nWhere two specify the same device, the later folder counts. Empty: no such devices."`
}

// Devices is about the devices that kubelet gives a container.
type Devices struct {
	Ownership bool `toml:"device_ownership_from_security_context" comment:"Give the device nodes in a container to its runAsUser and runAsGroup, so that one without root can open them.\nA node whose container names no user, or no group, keeps the host's. CDI devices are owned as their specification says."`
}

// Streaming is about exec, attach and port-forward.
type Streaming struct {
	Address string `toml:"address" comment:"Where exec, attach and port-forward are served, as IP:PORT; port 0 is a free one. Only kubelet, on this machine, needs it.\nWhoever reaches it and learns one of its URLs, each good once and for a minute, gets what that URL is for."`
	TLSCert string `toml:"tls_cert" comment:"Certificate for TLS, a PEM file with what is between it and its root. It and its key are read again when they change. Empty: no TLS."`
	TLSKey  string `toml:"tls_key" comment:"The certificate's key, a PEM file."`
}

// Metrics is about berthd's own figures.
type Metrics struct {
	Address string `toml:"address" comment:"Where Prometheus finds berthd's figures, at /metrics (docs/operations.md). Empty: nowhere.\n\"unix:///run/berth/metrics.sock\" is a socket that root alone may use, in a folder that nobody else may write to; HOST:PORT, as in\n\"127.0.0.1:9477\", is plain HTTP that asks nobody who they are, so it should be loopback or behind a firewall:\nthe names of images that are being pulled are in it."`
}

// Socket is the path of the unix socket that m.Address names, "" where it names none.
func (m Metrics) Socket() string {
	path, ok := strings.CutPrefix(m.Address, "unix://")
	if !ok {
		return ""
	}
	return path
}

// A Handler is one way to run containers.
type Handler struct {
	Path string `toml:"path" comment:"The program of another OCI runtime, as in path = \"/usr/bin/crun\". Empty: the built-in runtime under another name.\nIt may be replaced while berthd runs. One that does not work fails its own pods and no others (docs/operations.md)."`
}

// Default is what an empty file means. docs/config.toml is written from it.
func Default() Config {
	return Config{
		Root:         "/var/lib/berth",
		State:        "/run/berth",
		Log:          Log{Format: "text"},
		Network:      Network{ConfDir: "/etc/cni/net.d", BinDirs: []string{"/opt/cni/bin"}, InProcess: true},
		Image:        Image{CertsDir: "/etc/berth/certs.d", ParallelLayers: 3, LayerConnections: 4, Connections: 12, Pinned: []string{}},
		Shim:         Shim{PodsPerProcess: 64, Upgrade: UpgradeAuto},
		Streaming:    Streaming{Address: "127.0.0.1:0"},
		Snapshot:     Snapshot{},
		SELinux:      SELinux{Enable: true},
		CDI:          CDI{SpecDirs: []string{"/etc/cdi", "/var/run/cdi"}},
		Handlers:     map[string]Handler{},
		ProxyPlugins: map[string]ProxyPlugin{},
	}
}

// String returns c as a settings file, with the meaning of each key.
func (c Config) String() string {
	text, err := toml.Marshal(c)
	if err != nil {
		return "# " + err.Error() + "\n" // no value of this type does that
	}
	return string(text)
}

// JSON is c as one JSON object, keys as in the file, for clients that show one.
func (c Config) JSON() (string, error) {
	text, err := toml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	var keys map[string]any
	if err := toml.Unmarshal(text, &keys); err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	data, err := json.Marshal(keys)
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	return string(data), nil
}

// SystemdCgroup tells whether systemd makes the cgroups: as cgroup.driver says,
// or, when it says nothing, where systemd runs the machine on cgroup v2.
func (c Config) SystemdCgroup() bool {
	switch c.Cgroup.Driver {
	case "systemd":
		return true
	case "cgroupfs":
		return false
	}
	return exists("/run/systemd/system") && exists("/sys/fs/cgroup/cgroup.controllers")
}

// ShimBinary returns the path of berth-shim: shim.binary, or where that says
// nothing the one beside this program, else the one in $PATH.
func (c Config) ShimBinary() (string, error) {
	const name = "berth-shim"
	if c.Shim.Binary != "" {
		if !exists(c.Shim.Binary) {
			return "", fmt.Errorf("shim.binary: %s: no such program", c.Shim.Binary)
		}
		return c.Shim.Binary, nil
	}
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		if path := filepath.Join(dir, name); filepath.IsAbs(path) && exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("shim.binary: %s is neither in %s nor in $PATH: set shim.binary to its path", name, strings.Join(dirs, ""))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
