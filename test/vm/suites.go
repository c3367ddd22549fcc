package main

import "time"

// A suite is the tests of one package in one kind of machine.
type suite struct {
	name    string
	profile string // of the machine
	pkg     string // relative to the repository
	run     string // which tests; empty: all
	env     []string
	short   bool // .ci/run runs it
	byName  bool // it runs when it is named, or short ones are asked for, and not with all
	doc     string
	within  time.Duration // how long it may take; 0: suiteWithin
	legs    []leg         // what is done after it; each counts like the suite's own tests
}

// A leg is tests of the suite's package that follow a reboot of the machine.
type leg struct {
	reboot string // a shell's line that does it; empty: none
	run    string
}

// systemd has tests run with the systemd cgroup driver; without, it is cgroupfs.
var systemd = []string{"BERTH_TEST_CGROUP_DRIVER=systemd"}

// quotas has tests fail that find no project quota.
var quotas = []string{"BERTH_PROJECT_QUOTA=1"}

// updates are the rows of test/resources' table, of running containers and, to see that
// it makes no difference there, some of created ones.
const updates = "TestUpdate$/(running|all_at_once|no_whole)"

// suites are in the order in which they run; those of one profile share a machine.
func suites() []suite {
	return []suite{
		{name: "install", profile: "apparmor", pkg: "test/install", run: "TestInstall", doc: "berth install, under systemd, and away again"},
		{name: "reboot", profile: "apparmor", pkg: "test/install", run: "TestBeforeReboot", env: []string{"BERTH_REBOOTS=/share"}, legs: []leg{
			{"systemctl reboot", "TestAfterReboot$"}, {"echo b >/proc/sysrq-trigger", "TestAfterReboot$"}, {"", "TestAfterReboots"},
		}, doc: "a node with kubelet and its pods, rebooted in good order and by force"},
		{name: "reboot-hundred", profile: "apparmor", pkg: "test/install", run: "TestBeforeHundred$", env: []string{"BERTH_REBOOTS=/share"}, byName: true, within: time.Hour, legs: []leg{
			{"echo b >/proc/sysrq-trigger", "TestAfterHundred$"}, {"systemctl reboot", "TestAfterHundred$"}, {"", "TestAfterHundreds"},
		}, doc: "a node with a hundred pods, rebooted by force and in good order"},
		{name: "kubelet", profile: "apparmor", pkg: "test/kubelet", doc: "kubelet's static pods through all of a pod's life"},
		{name: "shim", profile: "apparmor", pkg: "shim", byName: true, doc: "the shim's own contract"},
		{name: "keeper", profile: "apparmor", pkg: "shim/keeper", byName: true, doc: "the keeper's parts"},
		{name: "crun", profile: "apparmor", pkg: "shim", env: []string{"BERTH_TEST_RUNTIME=/usr/bin/crun"}, byName: true, doc: "the shim's contract with crun"},
		{name: "handlers", profile: "apparmor", pkg: "test/handlers", run: "TestLife|TestFeatures", doc: "Debian's crun as a handler"},
		{name: "handlers-all", profile: "apparmor", pkg: "test/handlers", byName: true, doc: "other OCI runtimes, those that fail too"},
		{name: "quota", profile: "apparmor", pkg: "snapshot/quota", env: quotas, short: true, doc: "project quota of ext4 and XFS, which other kernels may lack"},
		{name: "quota-layers", profile: "apparmor", pkg: "snapshot", run: "TestWritable|TestProject|TestDeepLayer", env: quotas, short: true, doc: "writable layers measured and limited by project quota"},
		{name: "stats", profile: "apparmor", pkg: "test/stats", run: "TestAnswers", byName: true, doc: "the table of stats"},
		{name: "resources", profile: "apparmor", pkg: "test/resources", run: updates, byName: true, doc: "the table of updates"},
		{name: "stats-systemd", profile: "apparmor", pkg: "test/stats", run: "TestAnswers", env: systemd, short: true, doc: "the table of stats, cgroups by systemd"},
		{name: "resources-systemd", profile: "apparmor", pkg: "test/resources", run: updates + "|TestUpdateRefused|TestOOMKilledByPodLimit", env: systemd, doc: "the table of updates, cgroups by systemd"},
		{name: "streaming", profile: "apparmor", pkg: "test/streaming", byName: true, doc: "exec, attach, port-forward"},
		{name: "crun-resources", profile: "apparmor", pkg: "test/resources", env: []string{"BERTH_TEST_RUNTIME=/usr/bin/crun"}, byName: true, doc: "updates and OOM with crun"},
		{name: "crun-streaming", profile: "apparmor", pkg: "test/streaming", run: "TestExec|TestAttach", env: []string{"BERTH_TEST_RUNTIME=/usr/bin/crun"}, byName: true, doc: "exec and attach with crun"},
		{name: "security", profile: "apparmor", pkg: "test/security", run: "TestAppArmor|TestNoAppArmorParser|TestLocalhostProfiles", doc: "AppArmor and seccomp profiles"},
		{name: "volumes", profile: "apparmor", pkg: "test/volumes", byName: true, doc: "mounts, image volumes, devices"},
		{name: "recovery", profile: "apparmor", pkg: "test/recovery", byName: true, doc: "daemons and shims that are killed"},
		{name: "verity", profile: "apparmor", pkg: "snapshot", run: "TestVerity", short: true, doc: "layers under fs-verity"},
		{name: "powercut", profile: "apparmor", pkg: "test/powercut", run: "TestCut|TestPowerCut", byName: true, doc: "power cuts during pulls and removes"},
		{name: "critest", profile: "apparmor", pkg: "test/critest", run: "TestConformance", env: []string{"BERTH_CRITEST_PARALLEL=2"}, doc: "all of critest, AppArmor's specs too"},
		{name: "critest-apparmor", profile: "apparmor", pkg: "test/critest", run: "TestConformance", env: []string{"BERTH_CRITEST_FOCUS=AppArmor"}, byName: true, doc: "critest's AppArmor specs"},
		{name: "selinux", profile: "selinux", pkg: "test/security", run: "TestSELinux", doc: "labels and levels where SELinux enforces"},
		{name: "selinux-critest", profile: "selinux", pkg: "test/critest", run: "TestConformance", env: []string{"BERTH_CRITEST_FOCUS=SELinux"}, doc: "critest's SELinux specs"},
		{name: "v1-stats", profile: "v1", pkg: "test/stats", run: "TestAnswers", byName: true, doc: "the table of stats on cgroup v1"},
		{name: "v1-resources", profile: "v1", pkg: "test/resources", run: updates + "|TestOOMKilledByPodLimit", byName: true, doc: "the table of updates on cgroup v1"},
		{name: "v1-stats-systemd", profile: "v1", pkg: "test/stats", run: "TestAnswers", env: systemd, byName: true, doc: "the same, cgroups by systemd"},
		{name: "v1-resources-systemd", profile: "v1", pkg: "test/resources", run: updates, env: systemd, byName: true, doc: "the same, cgroups by systemd"},
		{name: "v1-oom-systemd", profile: "v1", pkg: "test/resources", run: "TestOOMKilledByPodLimit", env: systemd, byName: true, doc: "OOM kills, cgroups by systemd"},
	}
}
