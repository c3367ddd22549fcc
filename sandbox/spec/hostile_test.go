package spec

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// control is all of a spec that is not an image's to choose.
func control(t *testing.T, s *specs.Spec, volumes []string) string {
	t.Helper()
	c := *s
	p := *s.Process
	p.Args, p.Env, p.Cwd = nil, nil, ""
	c.Process = &p
	c.Mounts = nil
	for _, m := range s.Mounts {
		if !strings.HasPrefix(m.Source, "/volumes/") {
			c.Mounts = append(c.Mounts, m)
		}
	}
	if s.Hooks != nil || len(s.Mounts)-len(c.Mounts) > len(volumes) {
		t.Fatalf("hooks %v, %d mounts more for %d volumes", s.Hooks, len(s.Mounts)-len(c.Mounts), len(volumes))
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkHostile makes a container of an image and wants all that is ours as it is
// for a plain one.
func checkHostile(t *testing.T, img Image, changes []change) {
	t.Helper()
	in := request(changes...)
	in.Image = img
	in.Volumes = nil
	for range img.Volumes {
		in.Volumes = append(in.Volumes, "/volumes/x")
	}
	s, err := Container(in)
	if err != nil {
		return // refused is fine
	}
	plain := in
	plain.Image, plain.Volumes = Image{Cmd: []string{"/bin/true"}}, nil
	want, err := Container(plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := control(t, s, img.Volumes), control(t, want, nil); got != want {
		t.Fatalf("image %+v changed\n%s\nto\n%s", img, want, got)
	}
	for _, m := range s.Mounts {
		if pathClimbs(m.Destination) || !strings.HasPrefix(m.Destination, "/") {
			t.Fatalf("image %+v: mount at %q", img, m.Destination)
		}
	}
}

// hostileWords are what an attacker would write.
func hostileWords() []string {
	return []string{
		"", "/", "..", "/../../etc", "/proc", "/sys/fs/cgroup", "/dev", "/dev/shm", "/etc/hosts", "/etc", "/etc/resolv.conf",
		"/var/run/secrets", "a=b", "PATH=/x", "HOME=\nroot:x:0:0", "io.kubernetes.cri.sandbox-id=x", "org.systemd.property.X=1",
		"0", "+0", "4294967296", "root:root", "/proc/self/fd/7", "\x00", "\xff\xfe", "SIGKILL", strings.Repeat("A", 5000), "/a:/b", "system.slice:berth:x",
	}
}

// TestImageNeverReachesControl tries random images, every field of Image among them.
func TestImageNeverReachesControl(t *testing.T) {
	shapes := [][]change{nil, {asPrivileged}, {withEverything}, {hostEverything}, {selinuxHost, apparmor, security(restricted)}}
	rng := rand.New(rand.NewPCG(1, 2))
	words := hostileWords()
	pick := func() string {
		w := words[rng.IntN(len(words))]
		if rng.IntN(3) == 0 {
			w += words[rng.IntN(len(words))]
		}
		return w
	}
	for i := range 3000 {
		var img Image
		v := reflect.ValueOf(&img).Elem()
		for f := range v.NumField() {
			switch field := v.Field(f); field.Kind() {
			case reflect.String:
				field.SetString(pick())
			case reflect.Slice:
				for range rng.IntN(4) {
					field.Set(reflect.Append(field, reflect.ValueOf(pick())))
				}
			default:
				t.Fatalf("Image.%s: of a kind that this test does not fill", v.Type().Field(f).Name)
			}
		}
		if i%2 == 0 { // so that enough of them become containers
			img.WorkingDir, img.Cmd = "/w", []string{"x"}
			if i%4 == 0 {
				img.Volumes = []string{"/data"}
			}
		}
		checkHostile(t, img, shapes[i%len(shapes)])
	}
}

// FuzzImage is the same with what a fuzzer finds.
func FuzzImage(f *testing.F) {
	for _, w := range hostileWords() {
		f.Add(w, "A="+w, w, "x", "/w", "/data", w)
		f.Add("", w, "/e", "x"+w, w, w, "")
	}
	f.Fuzz(func(t *testing.T, user, env, entry, cmd, dir, volume, signal string) {
		img := Image{User: user, Env: []string{env}, Entrypoint: []string{entry}, Cmd: []string{cmd},
			WorkingDir: dir, Volumes: []string{volume}, StopSignal: signal}
		checkHostile(t, img, nil)
		checkHostile(t, img, []change{withEverything})
	})
}

// FuzzSeccomp: a profile is refused or it filters; it never becomes none.
func FuzzSeccomp(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW"}]}`))
	f.Add([]byte(`{"defaultAction":"","archMap":[{}],"syscalls":[{}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, profile []byte) {
		in := request(security(localhostSeccomp))
		in.SeccompLocalhost = profile
		if s, err := Container(in); err == nil && (s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction == "") {
			t.Fatalf("profile %q filters nothing", profile)
		}
	})
}
