package installation

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/config"
)

func TestInstall(t *testing.T) {
	i := newImage(t)
	before := i.all()

	i.o.DryRun = true
	contains(t, i.mustInstall(), "would write /usr/local/bin/berthd", "would write /etc/berth/config.toml")
	i.same(before)

	i.o.DryRun = false
	out := i.mustInstall()
	contains(t, out, "wrote       /usr/local/bin/berthd", "network: berth's own")
	if strings.Contains(out, "plugins") {
		t.Errorf("plugins that berthd answers itself are wanted:\n%s", out)
	}
	installed := i.all()
	if fi, err := os.Stat(filepath.Join(i.root, "usr/local/bin/berth-shim")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("berth-shim: %v, %v", fi, err)
	}
	cfg, err := config.Load(filepath.Join(i.root, config.DefaultPath))
	if err != nil || !cfg.Network.Embedded {
		t.Errorf("settings: %+v, %v", cfg, err)
	}
	contains(t, i.get("/etc/systemd/system/multi-user.target.wants/../berthd.service"), "ExecStart=/usr/local/bin/berthd\n", "Type=notify", "KillMode=process", "Delegate=yes", "WatchdogSec=")
	contains(t, i.get("/etc/crictl.yaml"), "runtime-endpoint: unix:///run/berth/berth.sock\n")

	if out := i.mustInstall(); strings.Contains(out, "wrote") || strings.Contains(out, "replaced") {
		t.Errorf("again:\n%s", out)
	}
	i.same(installed)

	i.o.DryRun = true
	contains(t, i.mustUninstall(), "would remove /usr/local/bin/berthd")
	i.same(installed)
	i.o.DryRun = false
	i.mustUninstall()
	i.same(before)
	i.mustUninstall()
	i.same(before)
}

// TestUpgrade: programs and what is still ours is replaced, and goes at the end.
func TestUpgrade(t *testing.T) {
	i := newImage(t)
	before := i.all()
	i.mustInstall()
	i.file(filepath.Join(i.o.From, "berthd"), "newer", 0o755)
	old := i.get(unitDir + "/berthd.service")
	serviceWas := serviceText
	serviceText += "# newer\n"
	defer func() { serviceText = serviceWas }()
	contains(t, i.mustInstall(), "replaced    /usr/local/bin/berthd", "replaced    "+unitDir+"/berthd.service", "unchanged   /usr/local/bin/berth\n")
	if i.get("/usr/local/bin/berthd") != "newer" || i.get(unitDir+"/berthd.service") == old {
		t.Error("not replaced")
	}
	i.mustUninstall()
	i.same(before)
}

// TestOthersFiles: what somebody else wrote, or changed, is left alone.
func TestOthersFiles(t *testing.T) {
	i := newImage(t)
	const theirs = "runtime-endpoint: unix:///run/containerd/containerd.sock\n"
	i.put("/etc/crictl.yaml", theirs)
	i.put("/etc/berth/config.toml", "state = \"/run/other\"\n")
	i.put("/etc/cni/net.d/10-calico.conflist", "{}")
	i.put("/etc/berth/certs.d/_default/hosts.toml", "")
	before := i.all()
	out := i.mustInstall()
	contains(t, out, "left alone  /etc/crictl.yaml: it was not berth", "unix:///run/other/berth.sock", "unchanged   /etc/berth/config.toml", "network: 10-calico.conflist")
	unit := filepath.Join(i.root, unitDir, "berthd.service")
	i.file(unit, "mine", 0o644)
	contains(t, i.mustInstall(), "left alone  "+unitDir+"/berthd.service: it was changed since", "drop-in")
	contains(t, i.mustUninstall(), "left alone  "+unitDir+"/berthd.service: it was changed since")
	if err := os.RemoveAll(filepath.Join(i.root, "/etc/systemd")); err != nil {
		t.Fatal(err)
	}
	i.same(before)

	i.o.Force = true
	contains(t, i.mustInstall(), "replaced    /etc/crictl.yaml")
	contains(t, i.get("/etc/crictl.yaml"), "unix:///run/berth/berth.sock")
}

// TestMaskedUnit: a link to /dev/null is no file to write to.
func TestMaskedUnit(t *testing.T) {
	i := newImage(t)
	unit := filepath.Join(i.root, unitDir, "berthd.service")
	if err := os.MkdirAll(filepath.Dir(unit), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", unit); err != nil {
		t.Fatal(err)
	}
	before := i.all()
	contains(t, i.mustInstall(), "left alone  "+unitDir+"/berthd.service: it is not a plain file")
	if to, err := os.Readlink(unit); err != nil || to != "/dev/null" {
		t.Errorf("%q, %v", to, err)
	}
	i.mustUninstall()
	i.same(before)
}

// TestDisabledUnit: an upgrade does not enable what was disabled.
func TestDisabledUnit(t *testing.T) {
	i := newImage(t)
	i.mustInstall()
	link := filepath.Join(i.root, unitDir, "multi-user.target.wants/berthd.service")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	contains(t, i.mustInstall(), "the unit was disabled")
	if _, err := os.Lstat(link); err == nil {
		t.Error("it is enabled")
	}
}

// TestLinksOfAnImage: an absolute link in an image is the image's.
func TestLinksOfAnImage(t *testing.T) {
	i := newImage(t)
	const elsewhere = "/berth-install-test"
	if err := os.MkdirAll(filepath.Join(i.root, "usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc", "usr/local"} {
		if err := os.Symlink(elsewhere, filepath.Join(i.root, name)); err != nil {
			t.Fatal(err)
		}
	}
	before := i.all()
	i.mustInstall()
	if _, err := os.Stat(elsewhere); err == nil {
		t.Error("it was written outside the image")
	}
	i.get(filepath.Join(elsewhere, "berth/config.toml"))
	i.get(filepath.Join(elsewhere, "bin/berthd"))
	i.mustUninstall()
	i.same(before)
}

// TestCutShort: killed at any file, installed again, nothing is taken for somebody
// else's; uninstalled at once, nothing is left.
func TestCutShort(t *testing.T) {
	for _, again := range []bool{true, false} {
		i := newImage(t)
		before := i.all()
		i.mustInstall()
		serviceWas := serviceText
		serviceText += "# newer\n"
		defer func() { serviceText = serviceWas }()

		n, err := open(i.o, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		files, err := n.files()
		if err != nil {
			t.Fatal(err)
		}
		whats := make([]string, len(files))
		for j, f := range files {
			whats[j], _, _ = n.decide(f)
		}
		if err := n.intend(files, whats); err != nil { // and no further
			t.Fatal(err)
		}
		if again {
			contains(t, i.mustInstall(), "replaced    "+unitDir+"/berthd.service")
		}
		i.mustUninstall()
		i.same(before)
		serviceText = serviceWas
	}
}

func TestSettings(t *testing.T) {
	i := newImage(t)
	i.put("/usr/lib/cni/bridge", "")
	i.o.Network = "none"
	mine := filepath.Join(t.TempDir(), "mine.toml")
	i.file(mine, "rot = \"/x\"\n", 0o644)

	before := i.all()
	i.o.Settings = mine
	if out, err := i.install(); err == nil || !strings.Contains(err.Error(), `"rot"`) {
		t.Errorf("%v\n%s", err, out)
	}
	i.same(before)

	i.o.Settings = ""
	contains(t, i.mustInstall(), "network: none yet")
	contains(t, i.get(config.DefaultPath), `bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]`)

	i.file(mine, "state = \"/run/x\"\n", 0o644)
	i.o.Settings = mine
	contains(t, i.mustInstall(), "replaced    "+config.DefaultPath)
	contains(t, i.get("/etc/crictl.yaml"), "unix:///run/x/berth.sock")
	i.file(mine, "[network]\nembedded = true\nin_process = false\n", 0o644)
	contains(t, i.mustInstall(), "the plugins bridge, host-local, portmap are not in /opt/cni/bin")
	i.o.Settings = ""
	contains(t, i.mustInstall(), "unchanged   "+config.DefaultPath)

	i.put(config.DefaultPath, "broken")
	if _, err := i.install(); err == nil || !strings.Contains(err.Error(), config.DefaultPath) {
		t.Errorf("broken settings: %v", err)
	}
}

func TestNothingIsHalfDone(t *testing.T) {
	for name, spoil := range map[string]func(*image){
		"a program is missing":       func(i *image) { _ = os.Remove(filepath.Join(i.o.From, "berth-shim")) },
		"no such root":               func(i *image) { i.o.Root += "/none" },
		"a start in an image":        func(i *image) { i.o.Now = true },
		"a relative folder":          func(i *image) { i.o.BinDir = "bin" },
		"a folder in place of one":   func(i *image) { i.put("/usr/local/bin/berthd/x", "") },
		"no plugins where they were": func(i *image) { i.o.Plugins = i.root },
		"a record that is none":      func(i *image) { i.put(RecordPath, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			i := newImage(t)
			spoil(i)
			before := i.all()
			if out, err := i.install(); err == nil {
				t.Errorf("no error:\n%s", out)
			}
			i.same(before)
		})
	}
}

func TestPlugins(t *testing.T) {
	i := newImage(t)
	before := i.all()
	i.o.Plugins = t.TempDir()
	i.file(filepath.Join(i.o.Plugins, "bridge"), "bridge", 0o755)
	i.file(filepath.Join(i.o.Plugins, "README"), "", 0o644)
	i.mustInstall()
	if i.get("/opt/cni/bin/bridge") != "bridge" {
		t.Error("no plugin")
	}
	if _, err := os.Stat(filepath.Join(i.root, "/opt/cni/bin/README")); err == nil {
		t.Error("a text was copied as a plugin")
	}
	i.mustUninstall()
	i.same(before)
}

// TestUninstallData: what the daemon keeps goes, with pods it stays.
func TestUninstallData(t *testing.T) {
	i := newImage(t)
	before := i.all()
	i.mustInstall()
	i.put("/var/lib/berth/images/manifests/sha256/x", "")
	i.put("/var/lib/berth/pods/p/record.json", "")
	installed := i.all()
	if err := Uninstall(t.Context(), i.o, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "1 pods are on record in /var/lib/berth/pods") {
		t.Errorf("with a pod: %v", err)
	}
	i.same(installed)
	i.put("/var/lib/berth/pods/gone/pod.json", `{"sha256":"","record":{"state":"removing","owed":"ipam: no answer"}}`)
	i.put("/var/lib/berth/pods/stopped/pod.json", `{"sha256":"","record":{"state":"notready","owed":"ipam: another"}}`)
	if err := Uninstall(t.Context(), i.o, &bytes.Buffer{}); err == nil {
		t.Error("uninstalled with pods that owe their addresses")
	} else {
		contains(t, err.Error(), "2 pods are on record", "1 pods were removed, and the CNI plugin has not taken their addresses back (ipam: no answer)")
	}
	if err := os.RemoveAll(filepath.Join(i.root, "var/lib/berth/pods")); err != nil {
		t.Fatal(err)
	}
	i.put("/var/lib/berth/pods/gone/pod.json", `{"record":{"state":"removing","owed":"ipam: no answer"}}`)
	if err := Uninstall(t.Context(), i.o, &bytes.Buffer{}); err == nil || strings.Contains(err.Error(), "crictl") || !strings.Contains(err.Error(), "mend it") {
		t.Errorf("with a removed pod alone: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(i.root, "var/lib/berth/pods/gone")); err != nil {
		t.Fatal(err)
	}
	i.put("/var/lib/berth/mine", "")
	contains(t, i.mustUninstall(), "left alone  /var/lib/berth: there is more in it")
	if err := os.RemoveAll(filepath.Join(i.root, "var")); err != nil {
		t.Fatal(err)
	}
	i.same(before)
}

// TestWithoutSystemd: all else is installed, and that is said.
func TestWithoutSystemd(t *testing.T) {
	i := newImage(t)
	if err := os.RemoveAll(filepath.Join(i.root, "usr")); err != nil {
		t.Fatal(err)
	}
	contains(t, i.mustInstall(), "no systemd: no unit is written", "wrote       /usr/local/bin/berthd")
	if _, err := os.Stat(filepath.Join(i.root, unitDir)); err == nil {
		t.Error("units all the same")
	}
}
