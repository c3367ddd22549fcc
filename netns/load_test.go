package netns

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	bridgeList = `{"cniVersion":"1.0.0","name":"net-a","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap","capabilities":{"portMappings":true}}]}`
	bridgeConf = `{"cniVersion":"0.4.0","name":"net-b","type":"bridge","bridge":"x","ipam":{"type":"host-local"}}`
)

func TestLoad(t *testing.T) {
	tests := []struct {
		name    string
		files   map[string]string
		file    string // which one is used
		types   string // its plugins
		skipped []string
	}{
		{"no directory", nil, "", "", nil},
		{"the first by name", map[string]string{"20-b.conflist": strings.ReplaceAll(bridgeList, "net-a", "b"), "10-a.conflist": bridgeList}, "10-a.conflist", "bridge portmap", nil},
		{"whatever its kind", map[string]string{"10-a.conf": bridgeConf, "20-b.conflist": bridgeList}, "10-a.conf", "bridge", nil},
		{"json is a conf", map[string]string{"10-a.json": bridgeConf}, "10-a.json", "bridge", nil},
		{"others are not looked at", map[string]string{"01-a.conflist.bak": bridgeList, "02": bridgeList, "03.yaml": "x", "10.conflist": bridgeList}, "10.conflist", "bridge portmap", nil},
		{"a broken one is passed over and named", map[string]string{
			"01.conflist": "{", "02.conflist": "", "03.conf": `{"name":"x"}`, "04.conflist": `{"name":"x","plugins":[]}`,
			"05.conflist": `{"name":"../x","plugins":[{"type":"bridge"}]}`, "06.conflist": `{"cniVersion":"9.0.0","name":"x","plugins":[{"type":"bridge"}]}`,
			"07.conflist": `{"name":"x"}`, "08.conf": bridgeList, "09.conflist": "x" + strings.Repeat(" ", confLimit), "10.conflist": bridgeList,
		}, "10.conflist", "bridge portmap", []string{"01.conflist", "02.conflist", "03.conf", "04.conflist", "05.conflist", "06.conflist", "07.conflist", "08.conf", "09.conflist"}},
		{"only broken ones", map[string]string{"01.conflist": "{"}, "", "", []string{"01.conflist"}},
		{"plugins in the network's folder", map[string]string{"10.conflist": bridgeList, "net-a/20.conf": `{"type":"bandwidth"}`}, "10.conflist", "bridge portmap bandwidth", nil},
		{"only in the network's folder", map[string]string{"10.conflist": `{"cniVersion":"1.1.0","name":"net-a"}`, "net-a/20.conf": `{"type":"ptp"}`}, "10.conflist", "ptp", nil},
		{"no plugins in the folder when the list says so", map[string]string{
			"10.conflist": strings.Replace(bridgeList, `"name"`, `"loadOnlyInlinedPlugins":true,"name"`, 1), "net-a/20.conf": `{"type":"bandwidth"}`,
		}, "10.conflist", "bridge portmap", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "net.d")
			for name, text := range tt.files {
				write(t, filepath.Join(dir, name), text)
			}
			l, err := load(dir)
			if err != nil {
				t.Fatal(err)
			}
			var skipped []string
			for _, err := range l.skipped {
				path, _, _ := strings.Cut(err.Error(), ": ")
				skipped = append(skipped, filepath.Base(path))
			}
			if !slices.Equal(skipped, tt.skipped) {
				t.Errorf("passed over: %v, want %v", l.skipped, tt.skipped)
			}
			if tt.file == "" {
				if l.list != nil {
					t.Errorf("used %s", l.file)
				}
				return
			}
			if l.file != filepath.Join(dir, tt.file) {
				t.Fatalf("used %q, want %s", l.file, tt.file)
			}
			// The bytes alone must give the same list, once the directory is gone.
			os.RemoveAll(dir)
			list, err := parseList(l.list.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			var types []string
			for _, p := range list.Plugins {
				types = append(types, p.Network.Type)
			}
			if got := strings.Join(types, " "); got != tt.types {
				t.Errorf("plugins %q, want %q", got, tt.types)
			}
			if list.Name == "" || list.CNIVersion == "" {
				t.Errorf("name %q, version %q", list.Name, list.CNIVersion)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	script(t, a, "portmap", "")
	write(t, filepath.Join(b, "bridge"), "not executable")
	list, err := parseList([]byte(bridgeList))
	if err != nil {
		t.Fatal(err)
	}
	if got := missing(&plugins{}, list, []string{a, b}); !slices.Equal(got, []string{"bridge", "host-local"}) {
		t.Errorf("missing %v", got)
	}
	script(t, b, "bridge", "")
	script(t, b, "host-local", "")
	if got := missing(&plugins{}, list, []string{a, b}); len(got) > 0 {
		t.Errorf("missing %v", got)
	}
}
