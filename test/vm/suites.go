package main

// A suite is the tests of one package in one kind of machine.
type suite struct {
	name    string
	profile string // of the machine
	pkg     string // relative to the repository
	run     string // which tests; empty: all
	env     []string
	short   bool // .ci/run runs it too
	doc     string
	legs    []leg // what is done after it; each counts like the suite's own tests
}

// A leg is tests of the suite's package that follow a reboot of the machine.
type leg struct {
	reboot string // a shell's line that does it; empty: none
	run    string
}

// suites are in the order in which they run; those of one profile share a machine.
func suites() []suite {
	return []suite{
		{name: "install", profile: "apparmor", pkg: "test/install", run: "TestInstall", doc: "berth install, under systemd, and away again"},
		{name: "reboot", profile: "apparmor", pkg: "test/install", run: "TestBeforeReboot", env: []string{"BERTH_REBOOTS=/share"}, legs: []leg{
			{"systemctl reboot", "TestAfterReboot$"}, {"echo b >/proc/sysrq-trigger", "TestAfterReboot$"}, {"", "TestAfterReboots"},
		}, doc: "a node with kubelet and its pods, rebooted in good order and by force"},
		{name: "kubelet", profile: "apparmor", pkg: "test/kubelet", doc: "kubelet's static pods through all of a pod's life"},
		{name: "shim", profile: "apparmor", pkg: "shim", doc: "the shim's own contract"},
		{name: "keeper", profile: "apparmor", pkg: "shim/keeper", doc: "the keeper's parts"},
		{name: "crun", profile: "apparmor", pkg: "shim", env: []string{"BERTH_TEST_RUNTIME=/usr/bin/crun"}, doc: "the shim's contract with crun"},
		{name: "handlers", profile: "apparmor", pkg: "test/handlers", doc: "other OCI runtimes, crun among them"},
		{name: "stats", profile: "apparmor", pkg: "test/stats", doc: "stats and metrics of pods"},
		{name: "resources", profile: "apparmor", pkg: "test/resources", doc: "updates of resources, OOM"},
		{name: "streaming", profile: "apparmor", pkg: "test/streaming", doc: "exec, attach, port-forward"},
		{name: "crun-resources", profile: "apparmor", pkg: "test/resources", env: []string{"BERTH_TEST_RUNTIME=/usr/bin/crun"}, doc: "updates and OOM with crun"},
		{name: "crun-streaming", profile: "apparmor", pkg: "test/streaming", run: "TestExec|TestAttach", env: []string{"BERTH_TEST_RUNTIME=/usr/bin/crun"}, doc: "exec and attach with crun"},
		{name: "security", profile: "apparmor", pkg: "test/security", doc: "what containers must not do"},
		{name: "volumes", profile: "apparmor", pkg: "test/volumes", doc: "mounts, image volumes, devices"},
		{name: "recovery", profile: "apparmor", pkg: "test/recovery", doc: "daemons and shims that are killed"},
		{name: "critest", profile: "apparmor", pkg: "test/critest", run: "TestConformance", doc: "all of critest, AppArmor's specs too"},
		{name: "selinux", profile: "selinux", pkg: "test/security", run: "TestSELinux", doc: "labels and levels where SELinux enforces"},
		{name: "selinux-critest", profile: "selinux", pkg: "test/critest", run: "TestConformance", env: []string{"BERTH_CRITEST_FOCUS=SELinux"}, doc: "critest's SELinux specs"},
	}
}
