package netns

import (
	"errors"
	"regexp"
	"testing"
)

func TestSetting(t *testing.T) {
	everything := Kinds{Net: true, IPC: true, UTS: true}
	tests := []struct {
		name       string
		k          Kinds
		key, value string
		path       string // "": refused
	}{
		{"a network setting", everything, "net.ipv4.ip_forward", "1", "net/ipv4/ip_forward"},
		{"with slashes", everything, "net/ipv4/ip_forward", "1", "net/ipv4/ip_forward"},
		{"an interface with a dot, by slashes", everything, "net/ipv4/conf/eth0.1/rp_filter", "0", "net/ipv4/conf/eth0.1/rp_filter"},
		{"an interface with a dot, by dots", everything, "net.ipv4.conf.eth0/1.rp_filter", "0", "net/ipv4/conf/eth0.1/rp_filter"},
		{"several numbers", everything, "kernel.sem", "32000 1024000000 500 32000", "kernel/sem"},
		{"shared memory", everything, "kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced"},
		{"message queues", everything, "kernel.msgmax", "65536", "kernel/msgmax"},
		{"POSIX message queues", everything, "fs.mqueue.msg_max", "10", "fs/mqueue/msg_max"},

		{"network, with the host's network", Kinds{IPC: true, UTS: true}, "net.ipv4.ip_forward", "1", ""},
		{"IPC, with the host's IPC", Kinds{Net: true, UTS: true}, "kernel.shmmax", "1", ""},
		{"mqueue, with the host's IPC", Kinds{Net: true, UTS: true}, "fs.mqueue.msg_max", "1", ""},
		{"the host's kernel", everything, "kernel.core_pattern", "core", ""},
		{"the host's kernel, hidden in a value (CVE-2022-0811)", everything, "kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x", ""},
		{"a plus, as pinns split at (CVE-2022-0811)", everything, "kernel.shm_rmid_forced+kernel.core_pattern", "x", ""},
		{"below a prefix", everything, "kernel.shm/../core_pattern", "x", ""},
		{"a name that only begins right", everything, "network.x", "1", ""},
		{"a deeper name", everything, "kernel.shm.core_pattern", "1", ""},
		{"sem with a tail", everything, "kernel.semx", "1", ""},
		{"the host's files", everything, "fs.file-max", "1", ""},
		{"memory", everything, "vm.swappiness", "1", ""},
		{"going up", everything, "net/../kernel/core_pattern", "x", ""},
		{"going up by swapped dots", everything, "net.//.kernel.core_pattern", "x", ""},
		{"a dot as a word", everything, "net/./ipv4", "x", ""},
		{"an empty word", everything, "net//ipv4", "x", ""},
		{"an absolute path", everything, "/kernel/core_pattern", "x", ""},
		{"capitals", everything, "net.ipv4.IP_FORWARD", "1", ""},
		{"a space", everything, "net.ipv4.ip forward", "1", ""},
		{"a newline", everything, "net.ipv4\n.x", "1", ""},
		{"no name", everything, "", "1", ""},
		{"only a namespace", everything, "net", "1", ""},
		{"no value", everything, "net.ipv4.ip_forward", "", ""},
		{"a NUL", everything, "net.ipv4.ip_forward", "1\x00", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := tt.k.setting(tt.key, tt.value)
			if tt.path == "" {
				if !errors.Is(err, ErrInvalidSysctl) {
					t.Errorf("%+v, %v; want it refused", s, err)
				}
				return
			}
			if err != nil || s.path != tt.path || s.value != tt.value {
				t.Errorf("%+v, %v; want %s", s, err, tt.path)
			}
		})
	}
}

func TestSettingsTwice(t *testing.T) {
	k := Kinds{Net: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"}}
	if _, err := k.settings(); !errors.Is(err, ErrInvalidSysctl) {
		t.Errorf("one setting under two names: %v", err)
	}
}

func FuzzSetting(f *testing.F) {
	for _, s := range []string{"net.ipv4.x", "kernel.shm/..", "net//..//kernel", "fs.mqueue./", "net/ipv4/conf/eth0.1/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s, err := Kinds{Net: true, IPC: true}.setting(name, "1")
		if err != nil {
			return
		}
		if !ownPath.MatchString(s.path) {
			t.Errorf("%q writes %q", name, s.path)
		}
	})
}

var ownPath = regexp.MustCompile(`^(net(/[a-z0-9_\-.]+)+|kernel/(shm|msg)[a-z0-9_\-.]*|kernel/sem|fs/mqueue/[a-z0-9_\-.]+)$`)
