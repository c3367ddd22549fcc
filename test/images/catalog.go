package images

import (
	"archive/tar"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Repositories as critest names them; the host before them is left out, because
// every host's mirror is the same registry.
const (
	e2e     = "e2e-test-images/"
	staging = "k8s-staging-cri-tools/"
	hub     = "library/"
)

// A maker builds the catalog from the host's files and the built programs.
type maker struct {
	base  tree              // busybox and its libraries
	tools tree              // pgrep and ipcs
	progs map[string][]byte // the programs beside this file, by folder
}

// newMaker reads what comes from the host.
func newMaker(progs map[string][]byte) (*maker, error) {
	busybox, err := program("/bin/busybox", "bin/busybox")
	if err != nil {
		return nil, err
	}
	names, err := applets()
	if err != nil {
		return nil, err
	}
	for _, n := range names { // hard links, as upstream's image has them: a mask over /bin/ls must not hide /bin/sh
		busybox["bin/"+n] = hardlink("bin/busybox")
	}
	tools := tree{}
	for _, n := range []string{"pgrep", "ipcs"} {
		delete(busybox, "bin/"+n)
		t, err := program("/usr/bin/"+n, "usr/bin/"+n)
		if err != nil {
			return nil, err
		}
		tools = merge(tools, t)
	}
	busybox["bin/busybox"] = node{mode: 0o755, data: busybox["bin/busybox"].data}
	return &maker{base: busybox, tools: tools, progs: progs}, nil
}

// system is the part of a root filesystem that is no program.
func system() tree {
	return tree{
		"etc/passwd": file(0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
			"www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"),
		"etc/group":         file(0o644, "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n"),
		"etc/nsswitch.conf": file(0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
		"etc/shadow":        file(0o640, "root:*:19000:0:99999:7:::\n"),
		"root":              dir(0o700),
		"home":              dir(0o755),
		"tmp":               dir(0o1777),
		"run":               dir(0o755),
		"var/run":           symlink("/run"),
		"var/log":           dir(0o755),
		"usr/sbin":          dir(0o755),
		"proc":              dir(0o555),
		"sys":               dir(0o555),
		"dev":               dir(0o755),
	}
}

// mixed are the layers of busybox in each of the three packings; gzipped are
// the same in gzip alone, as Docker schema 2 wants them.
func (m *maker) mixed() ([]layer, error) { return m.layers(packGzip, packZstd, packNone) }

func (m *maker) gzipped() ([]layer, error) { return m.layers(packGzip, packGzip, packGzip) }

func (m *maker) layers(base, tools, sys packing) ([]layer, error) {
	var out []layer
	for _, l := range []struct {
		packing
		tree
	}{{base, m.base}, {tools, m.tools}, {sys, system()}} {
		made, err := makeLayer(l.packing, l.tree)
		if err != nil {
			return nil, err
		}
		out = append(out, made)
	}
	return out, nil
}

// shell is the configuration that all images with busybox start from.
func shell() ocispec.ImageConfig {
	return ocispec.ImageConfig{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"sh"},
	}
}

// catalog makes all images.
func (m *maker) catalog() ([]entry, error) {
	mixed, err := m.mixed()
	if err != nil {
		return nil, err
	}
	gzipped, err := m.gzipped()
	if err != nil {
		return nil, err
	}
	c := &catalog{mixed: mixed, gzipped: gzipped, progs: m.progs}
	c.busybox()
	c.pause()
	c.users()
	c.named()
	c.servers()
	c.own()
	c.add("whiteouts", m.whiteouts)
	return c.entries, c.err
}

// A catalog collects entries; the first error stays.
type catalog struct {
	mixed, gzipped []layer
	progs          map[string][]byte
	entries        []entry
	err            error
}

func (c *catalog) add(what string, make func() (entry, error)) {
	if c.err != nil {
		return
	}
	e, err := make()
	if err != nil {
		c.err = fmt.Errorf("image %s: %w", what, err)
		return
	}
	c.entries = append(c.entries, e)
}

// on adds an image with one more layer above from.
func (c *catalog) on(from []layer, docker bool, p packing, t tree, conf ocispec.ImageConfig, repo string, tags ...string) {
	c.add(repo, func() (entry, error) {
		layers := slices.Clone(from)
		if len(t) > 0 {
			l, err := makeLayer(p, t)
			if err != nil {
				return entry{}, err
			}
			layers = append(layers, l)
		}
		img := image{arch: runtime.GOARCH, docker: docker, config: conf, layers: layers}
		return entry{repo: repo, tags: tags, images: []image{img}}, nil
	})
}

// busybox is an index of several platforms, of which only the host's works.
func (c *catalog) busybox() {
	for repo, tag := range map[string]string{e2e + "busybox": "1.29-2", hub + "busybox": "latest"} {
		c.add(repo, func() (entry, error) {
			e := entry{repo: repo, tags: []string{tag}}
			for _, arch := range []string{"arm64", "amd64", "riscv64"} {
				layers := c.mixed
				if arch != runtime.GOARCH {
					l, err := makeLayer(packGzip, tree{"bin/sh": file(0o755, "not for "+arch+"\n")})
					if err != nil {
						return entry{}, err
					}
					layers = []layer{l}
				}
				e.images = append(e.images, image{arch: arch, config: shell(), layers: layers})
			}
			return e, nil
		})
	}
}

// pause: critest wants 3.9 to be an image of its own, so each version differs.
func (c *catalog) pause() {
	for _, v := range []string{"3.9", "3.10", "3.10.1", "3.10.2"} {
		conf := ocispec.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535", Labels: map[string]string{"version": v}}
		c.on(nil, v == "3.9", packGzip, tree{"pause": {mode: 0o755, data: c.progs["pause"]}}, conf, "pause", v)
	}
}

// users are the images whose configuration names a user.
func (c *catalog) users() {
	for name, user := range map[string]string{
		"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004",
	} {
		conf := shell()
		conf.User = user
		c.on(c.gzipped, true, packGzip, nil, conf, staging+"test-image-user-"+name, "latest")
	}
	sys := system()
	conf := shell()
	conf.User = "1000"
	c.on(c.mixed, false, packGzip, tree{
		"etc/passwd":        file(0o644, string(sys["etc/passwd"].data)+"default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh\n"),
		"etc/group":         file(0o644, string(sys["etc/group"].data)+"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
		"home/default-user": {typeflag: tar.TypeDir, mode: 0o755, uid: 1000, gid: 1000},
	}, conf, staging+"test-image-predefined-group", "latest")
}

// named are the images of critest's image specs, told apart by a file.
func (c *catalog) named() {
	for i, n := range []struct {
		repo string
		tags []string
	}{
		{"test-image-1", []string{"latest"}},
		{"test-image-2", []string{"latest"}},
		{"test-image-3", []string{"latest"}},
		{"test-image-latest", []string{"latest"}},
		{"test-image-digest", []string{"latest"}},
		{"test-image-tags", []string{"1", "2", "3"}},
		{"test-image-tag", []string{"test"}},
		{"test-image-tag", []string{"all"}},
	} {
		mark := tree{n.repo + "-" + n.tags[0]: file(0o644, n.repo+"\n")}
		docker := i%2 == 0
		from, p := c.mixed, []packing{packNone, packZstd, packNone, packGzip}[i%4]
		if docker {
			from, p = c.gzipped, packGzip
		}
		c.on(from, docker, p, mark, shell(), staging+n.repo, n.tags...)
	}
}

// servers are nginx, httpd and the one on the host's network.
func (c *catalog) servers() {
	web := node{mode: 0o755, data: c.progs["web"]}
	conf := shell()
	conf.Cmd = []string{"nginx", "80"}
	conf.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	c.on(c.gzipped, true, packGzip, tree{"usr/sbin/nginx": web}, conf, e2e+"nginx", "1.14-2")

	conf.Cmd = []string{"httpd", "80"}
	c.on(c.mixed, false, packZstd, tree{"usr/local/sbin/httpd": web}, conf, e2e+"httpd", "2.4.39-4")

	conf.Cmd = []string{"nginx", "12003"}
	conf.ExposedPorts = map[string]struct{}{"12003/tcp": {}}
	c.on(c.mixed, false, packGzip, tree{"usr/sbin/nginx": web}, conf, staging+"hostnet-nginx-"+runtime.GOARCH, "latest")

	conf = ocispec.ImageConfig{Cmd: []string{"/nonewprivs"}}
	c.on(nil, false, packGzip, tree{"nonewprivs": {mode: 0o4755, data: c.progs["nonewprivs"]}}, conf, e2e+"nonewprivs", "1.3")
}

// own are the images of this repository's own tests and demo.
func (c *catalog) own() {
	conf := shell()
	conf.Cmd = []string{"busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/www"}
	conf.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	c.on(c.mixed, false, packZstd, tree{
		"www/index.html": file(0o644, "<!doctype html>\n<title>berth</title>\n<h1>This page comes from a pod.</h1>\n"),
	}, conf, hub+"web", "latest")
	c.on(nil, false, packZstd, tree{"tick": {mode: 0o755, data: c.progs["tick"]}},
		ocispec.ImageConfig{Entrypoint: []string{"/tick"}}, hub+"tick", "latest")
	c.on(nil, false, packZstd, tree{"chatter": {mode: 0o755, data: c.progs["chatter"]}},
		ocispec.ImageConfig{Entrypoint: []string{"/chatter"}}, hub+"chatter", "latest")
}

// whiteouts is an image that takes back what it brought. Its command checks the
// result from inside and prints "layers ok".
func (m *maker) whiteouts() (entry, error) {
	long := strings.Repeat("n", 200)
	deep := "deep/" + strings.Repeat("d/", 60) + long
	first := merge(m.base, system(), tree{
		"gone/file":         file(0o644, "x"),
		"kept/file":         file(0o644, "kept"),
		"kept/removed":      file(0o644, "x"),
		"opaque/old":        file(0o644, "x"),
		"opaque/sub/old":    file(0o644, "x"),
		"swap":              file(0o644, "was a file"),
		"plain/was":         file(0o644, "was a directory"),
		"back":              file(0o644, "first"),
		"links/a":           file(0o644, "linked"),
		"links/b":           hardlink("links/a"),
		"links/c":           symlink("a"),
		"links/away":        symlink("../../../../kept"),
		deep:                file(0o644, "deep"),
		"xattr":             {mode: 0o644, data: []byte("x"), xattrs: map[string]string{"user.note": "kept"}},
		"null":              {typeflag: tar.TypeChar, mode: 0o666, major: 1, minor: 3},
		"fifo":              {typeflag: tar.TypeFifo, mode: 0o600},
		"owned":             {mode: 0o640, data: []byte("o"), uid: 1234, gid: 4321},
		"sticky":            dir(0o1777),
		"name with space ☺": file(0o644, "s"),
	})
	second := tree{
		".wh.gone":            file(0o644, ""),
		".wh.back":            file(0o644, ""),
		"kept/.wh.removed":    file(0o644, ""),
		"opaque/.wh..wh..opq": file(0o644, ""),
		"opaque/new":          file(0o644, "new"),
		"swap/inside":         file(0o644, "now a directory"),
		"plain":               file(0o644, "now a file"),
	}
	third := tree{"back": file(0o644, "third"), "check": file(0o755, check(deep))}
	img := image{arch: runtime.GOARCH, config: shell()}
	img.config.Cmd = []string{"/check"}
	for _, l := range []struct {
		packing
		tree
	}{{packGzip, first}, {packZstd, second}, {packNone, third}} {
		made, err := makeLayer(l.packing, l.tree)
		if err != nil {
			return entry{}, err
		}
		img.layers = append(img.layers, made)
	}
	return entry{repo: hub + "whiteouts", tags: []string{"latest"}, images: []image{img}}, nil
}

// check is a shell script that looks at the merged root filesystem.
func check(deep string) string {
	facts := map[string]string{
		"whiteout of a directory":    `[ ! -e /gone ]`,
		"whiteout of a file":         `[ "$(ls -A /kept)" = file ]`,
		"opaque directory":           `[ "$(ls -A /opaque)" = new ]`,
		"file replaced by directory": `[ "$(cat /swap/inside)" = "now a directory" ]`,
		"directory replaced by file": `[ "$(cat /plain)" = "now a file" ]`,
		"file brought back":          `[ "$(cat /back)" = third ]`,
		"hard link":                  `[ "$(stat -c %i /links/a)" = "$(stat -c %i /links/b)" ]`,
		"link count":                 `[ "$(stat -c %h /links/a)" = 2 ]`,
		"symbolic link":              `[ "$(cat /links/c)" = linked ]`,
		"symbolic link above root":   `[ "$(cat /links/away/file)" = kept ]`,
		"long path":                  `[ "$(cat /` + deep + `)" = deep ]`,
		"character device":           `[ -c /null ] && [ "$(stat -c %t:%T /null)" = 1:3 ]`,
		"fifo":                       `[ -p /fifo ]`,
		"owner and mode":             `[ "$(stat -c %u:%g:%a /owned)" = 1234:4321:640 ]`,
		"sticky directory":           `[ "$(stat -c %a /sticky)" = 1777 ]`,
		"name with a space":          `[ "$(cat '/name with space ☺')" = s ]`,
		"modification time":          `[ "$(stat -c %Y /kept/file)" = ` + fmt.Sprint(epoch().Unix()) + ` ]`,
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\nbad=0\n")
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(&b, "%s || { echo 'wrong: %s'; bad=1; }\n", facts[name], name)
	}
	b.WriteString("[ $bad = 0 ] && echo layers ok\nexit $bad\n")
	return b.String()
}
