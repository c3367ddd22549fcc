package spec

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const testPasswd = `root:x:0:0:root:/root:/bin/sh
# a comment: with: some: colons
bad:x:4294967296:0::/:/bin/sh
bad:x:-1:0::/:/bin/sh
bad:x:0x0:0::/:/bin/sh
bad:x::0::/:/bin/sh
+0:x:0:0::/:/bin/sh
-1:x:0:0::/:/bin/sh
2147483648:x:0:0::/:/bin/sh
4294967296:x:0:0::/:/bin/sh
1001:x:0:0::/:/bin/sh
short:x
web:x:1000:1000:Web:/srv/web:/bin/sh
web:x:0:0:second of that name:/root:/bin/sh
evil:x:1002:1002:e:/home
PATH=/evil:/bin/sh
nohome:x:1003:1003
bell:x:1004:1004::/home/` + "\a" + `:/bin/sh
relative:x:1005:1005::home:/bin/sh
many:x:1006:1006::/a:/bin/sh:extra:fields
last:x:2147483647:2147483647::/last:/bin/sh`

const testGroup = `root:x:0:
web:x:1000:
staff:x:50:other,web
wheel:x:51:web,web
bad:x:99999999999:web
bad:x:no:web
1234:x:77:
prefix:x:52:webmaster,we
extra:x:53:web:more
big:x:2147483647:web`

type contextOption func(*runtimeapi.LinuxContainerSecurityContext)

func runAs(uid int64) contextOption {
	return func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: uid} }
}

func runAsName(name string) contextOption {
	return func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = name }
}

func runAsGroup(gid int64) contextOption {
	return func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsGroup = &runtimeapi.Int64Value{Value: gid} }
}

func supplemental(gids ...int64) contextOption {
	return func(s *runtimeapi.LinuxContainerSecurityContext) { s.SupplementalGroups = gids }
}

func strict(s *runtimeapi.LinuxContainerSecurityContext) {
	s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
}

func TestResolveIdentity(t *testing.T) {
	const maxInt32 = 1<<31 - 1
	opts := func(o ...contextOption) []contextOption { return o }
	for _, tt := range []struct {
		image   string
		options []contextOption
		want    string // uid:gid groups home
		err     error
	}{
		{"", nil, "0:0 [0] /root", nil},
		{"0", nil, "0:0 [0] /root", nil},
		{"000", nil, "0:0 [0] /root", nil},
		{"web", nil, "1000:1000 [1000 50 51 2147483647] /srv/web", nil},
		{"1000", nil, "1000:1000 [1000 50 51 2147483647] /srv/web", nil},
		{"00001000", nil, "1000:1000 [1000 50 51 2147483647] /srv/web", nil},
		{"1000:1000", nil, "1000:1000 [1000 50 51 2147483647] /srv/web", nil},
		{"web:staff", nil, "1000:50 [50 51 2147483647] /srv/web", nil},
		{"web:0", nil, "1000:0 [0 50 51 2147483647] /srv/web", nil},
		{"4711", nil, "4711:0 [0] /", nil},
		{"4711:4712", nil, "4711:4712 [4712] /", nil},
		{"1001", nil, "1001:0 [0] /", nil}, // passwd has a user of that name
		{"4711:1234", nil, "4711:1234 [1234] /", nil},
		{"evil", nil, "1002:1002 [1002] /home", nil},
		{"nohome", nil, "1003:1003 [1003] /", nil},
		{"bell", nil, "1004:1004 [1004] /", nil},
		{"relative", nil, "1005:1005 [1005] /", nil},
		{"last", nil, "2147483647:2147483647 [2147483647] /last", nil},

		// 2^31 and 2^32, each with its neighbours.
		{"2147483647", nil, "2147483647:2147483647 [2147483647] /last", nil},
		{"2147483648", nil, "", ErrInvalid},
		{"2147483649", nil, "", ErrInvalid},
		{"4294967295", nil, "", ErrInvalid},
		{"4294967296", nil, "", ErrInvalid},
		{"4294967297", nil, "", ErrInvalid},
		{"18446744073709551616", nil, "", ErrInvalid},
		{strings.Repeat("9", 200), nil, "", ErrInvalid},
		{"1000:2147483647", nil, "1000:2147483647 [2147483647 50 51] /srv/web", nil},
		{"1000:2147483648", nil, "", ErrInvalid},
		{"1000:4294967296", nil, "", ErrInvalid},

		// Neither an ID nor a name.
		{"+0", nil, "", ErrInvalid},
		{"-1", nil, "", ErrInvalid},
		{"0x0", nil, "", ErrNoSuchUser},
		{"1e3", nil, "", ErrNoSuchUser},
		{"0 ", nil, "", ErrInvalid},
		{" 0", nil, "", ErrInvalid},
		{"٠", nil, "", ErrNoSuchUser}, // a digit, though not one of ours
		{"user:group", nil, "", ErrNoSuchUser},
		{"web:group", nil, "", ErrNoSuchGroup},
		{":", nil, "", ErrInvalid},
		{":0", nil, "", ErrInvalid},
		{"1000:", nil, "", ErrInvalid},
		{"1000:0:0", nil, "", ErrInvalid},
		{"web\nroot", nil, "", ErrInvalid},
		{"web\n", nil, "", ErrInvalid},
		{"\nroot", nil, "", ErrInvalid},
		{"web\r", nil, "", ErrInvalid},
		{"web\x00", nil, "", ErrInvalid},
		{"web,root", nil, "", ErrInvalid},
		{"#", nil, "", ErrInvalid},
		{"bad", nil, "", ErrNoSuchUser},
		{"short", nil, "", ErrNoSuchUser},
		{"many", nil, "", ErrNoSuchUser},
		{"web:bad", nil, "", ErrNoSuchGroup},
		{"web:extra", nil, "", ErrNoSuchGroup},

		// kubelet's say.
		{"web", opts(runAs(0)), "0:0 [0] /root", nil},
		{"web:staff", opts(runAs(4711)), "4711:0 [0] /", nil},
		{"nobody-at-all", opts(runAs(4711)), "4711:0 [0] /", nil},
		{"2147483648", opts(runAs(1)), "1:0 [0] /", nil},
		{"", opts(runAs(maxInt32)), "2147483647:2147483647 [2147483647] /last", nil},
		{"", opts(runAs(maxInt32 + 1)), "", ErrInvalid},
		{"", opts(runAs(1 << 32)), "", ErrInvalid},
		{"", opts(runAs(-1)), "", ErrInvalid},
		{"", opts(runAs(1000), runAsGroup(7)), "1000:7 [7 50 51 2147483647] /srv/web", nil},
		{"", opts(runAs(1000), runAsGroup(1<<32)), "", ErrInvalid},
		{"", opts(runAs(1000), runAsGroup(-1)), "", ErrInvalid},
		{"", opts(runAsGroup(7)), "", ErrInvalid},
		{"web", opts(runAsGroup(7)), "", ErrInvalid},
		{"", opts(runAsName("web")), "1000:1000 [1000 50 51 2147483647] /srv/web", nil},
		{"", opts(runAsName("web"), runAsGroup(7)), "1000:7 [7 50 51 2147483647] /srv/web", nil},
		{"", opts(runAsName("nobody-at-all")), "", ErrNoSuchUser},
		{"", opts(runAsName("web:staff")), "", ErrInvalid},
		{"", opts(runAsName("4294967296")), "", ErrInvalid},
		{"", opts(runAsName("web"), runAs(1)), "", ErrInvalid},
		{"web", opts(supplemental(9, 50, 1000)), "1000:1000 [1000 50 51 2147483647 9] /srv/web", nil},
		{"web", opts(supplemental(9, 50, 9), strict), "1000:1000 [1000 9 50] /srv/web", nil},
		{"web", opts(strict), "1000:1000 [1000] /srv/web", nil},
		{"web", opts(supplemental(-1)), "", ErrInvalid},
		{"web", opts(supplemental(1 << 31)), "", ErrInvalid},
	} {
		t.Run(fmt.Sprintf("%.40q/%d", tt.image, len(tt.options)), func(t *testing.T) {
			sc := &runtimeapi.LinuxContainerSecurityContext{}
			for _, o := range tt.options {
				o(sc)
			}
			id, err := ResolveIdentity(sc, tt.image, []byte(testPasswd), []byte(testGroup))
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if got := fmt.Sprintf("%d:%d %v %s", id.UID, id.GID, id.AdditionalGIDs, id.Home); err == nil && got != tt.want {
				t.Errorf("identity %s, want %s", got, tt.want)
			}
		})
	}
}

func TestResolveIdentityWithoutAnything(t *testing.T) {
	id, err := ResolveIdentity(nil, "", nil, nil)
	if err != nil || id.UID != 0 || id.GID != 0 || !slices.Equal(id.AdditionalGIDs, []uint32{0}) || id.Home != "/" {
		t.Errorf("identity %+v, %v", id, err)
	}
	id, err = ResolveIdentity(nil, "5", []byte("1001:x:5:7::/x:/bin/sh\n"), nil)
	if err != nil || id.GID != 0 || id.Home != "/" {
		t.Errorf("a passwd line whose name is an ID counts: %+v, %v", id, err)
	}
	if _, err := ResolveIdentity(nil, "web", nil, nil); !errors.Is(err, ErrNoSuchUser) {
		t.Errorf("a name and no passwd: %v", err)
	}
}

// TestResolveIdentityBounds is CVE-2026-47262: large files cost no more than to read
// them once, and are refused above a size.
func TestResolveIdentityBounds(t *testing.T) {
	huge := make([]byte, maxUserFile+1)
	if _, err := ResolveIdentity(nil, "web", huge, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("huge passwd: %v", err)
	}
	if _, err := ResolveIdentity(nil, "0", nil, huge); !errors.Is(err, ErrInvalid) {
		t.Errorf("huge group: %v", err)
	}
	if _, err := ResolveIdentity(nil, "web", huge[:maxUserFile], huge[:maxUserFile]); !errors.Is(err, ErrNoSuchUser) {
		t.Errorf("one long line: %v", err)
	}
	var group strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&group, "g%d:x:%d:web\n", i, 100000+i)
	}
	if _, err := ResolveIdentity(nil, "web", []byte(testPasswd), []byte(group.String())); !errors.Is(err, ErrInvalid) {
		t.Errorf("more groups than the kernel takes: %v", err)
	}
}

func TestImageUser(t *testing.T) {
	for _, tt := range []struct {
		user string
		uid  int64
		name string
		err  error
	}{
		{"", 0, "", nil}, {"web", 0, "web", nil}, {"web:staff", 0, "web", nil}, {"1000:staff", 1000, "", nil},
		{"2147483648", 0, "", ErrInvalid}, {"-1", 0, "", ErrInvalid}, {"web:", 0, "", ErrInvalid},
	} {
		uid, name, err := ImageUser(tt.user)
		if !errors.Is(err, tt.err) || (err == nil && (uid != tt.uid || name != tt.name)) {
			t.Errorf("ImageUser(%q) = %d, %q, %v", tt.user, uid, name, err)
		}
	}
}

// FuzzResolveIdentity: whatever an image holds, kubelet's user stays what it is, IDs
// stay in range, and nothing that could be a second line gets out.
func FuzzResolveIdentity(f *testing.F) {
	for _, user := range []string{"", "web", "1000:staff", "+0", ":", "0x0", "web\nroot", "4294967296"} {
		f.Add(user, []byte(testPasswd), []byte(testGroup))
	}
	f.Fuzz(func(t *testing.T, user string, passwd, group []byte) {
		sc := &runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 4711}}
		id, err := ResolveIdentity(sc, user, passwd, group)
		if err == nil && id.UID != 4711 {
			t.Fatalf("run_as_user 4711 became %d", id.UID)
		}
		id, err = ResolveIdentity(nil, user, passwd, group)
		if err != nil {
			return
		}
		if id.UID > maxID || id.GID > maxID || len(id.AdditionalGIDs) == 0 || id.AdditionalGIDs[0] != id.GID {
			t.Fatalf("identity %+v", id)
		}
		if !strings.HasPrefix(id.Home, "/") || strings.ContainsAny(id.Home, "\n\r\x00:") {
			t.Fatalf("home %q", id.Home)
		}
	})
}
