package main

import (
	"strings"
	"testing"
)

// TestUnderWay: what takes long is told of, also of a pod that is not listed yet.
func TestUnderWay(t *testing.T) {
	d := daemon()
	d.conditions = good()
	d.nodeInfo = map[string]string{"underWay": `[{"object":"pod","id":"eee777","name":"shop/cart","operation":"creation","stage":"network","since":"2023-11-14T22:13:20Z"},
		{"object":"container","id":"fff888","name":"shop/cart/till","operation":"start","stage":"start","since":"2023-11-14T22:13:20Z"}]`}
	socket := d.serve(t)
	const pod, container = `pod shop/cart  eee777: creation under way for `, `container shop/cart/till  fff888: start under way for `
	for name, want := range map[string][]string{"cart": {pod, container, `, at stage "network"`}, "shop/cart": {pod, container}, "eee": {pod}, "till": {container}, "fff888": {container}} {
		out, err := run(t, "why", name, "--socket", socket)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		contains(t, out, want...)
	}
	out, err := run(t, "status", "--socket", socket)
	if err != nil {
		t.Error(err)
	}
	contains(t, out, pod, container)
}

// TestFailures: a pod of which nothing is left is known by what its creation failed for.
func TestFailures(t *testing.T) {
	d := daemon()
	d.conditions = good()
	d.nodeInfo = map[string]string{
		"failures": `[{"object":"pod","id":"eee777","name":"shop/cart","at":"2023-11-14T22:13:20Z","times":3,"error":"plugin bridge: no\u001b[2J address\nRuntimeReady  no",
			"steps":[{"name":"network","start":"22:13:19.000000","duration_ms":7.5,"error":"plugin bridge"}]}]`,
		"addressesOwed": `[{"id":"fff888","pod":"shop/till","since":"2023-11-14T22:13:20Z","error":"plugin bridge: hangs"}]`,
	}
	socket := d.serve(t)
	for _, name := range []string{"cart", "shop/cart", "eee7"} {
		out, err := run(t, "why", name, "--socket", socket)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		contains(t, out, "pod shop/cart  eee777", "3 times, last at 2023-11-14T22:13:20Z", "plugin bridge: no", "7.5 ms", "network", "failed: plugin bridge")
		if strings.ContainsAny(out, "\x1b") || strings.Contains(out, "\nRuntimeReady") {
			t.Errorf("%s: %q", name, out)
		}
	}
	if out, err := run(t, "why", "till", "--socket", socket); err == nil {
		t.Errorf("a stranger: %s", out)
	}
	out, err := run(t, "status", "--socket", socket)
	if err != nil {
		t.Error(err)
	}
	contains(t, out, "pod shop/cart: creation failed 3 times, last ", "pod shop/till  fff888: its address is not given back for ", "plugin bridge: hangs")
	if strings.Contains(out, "\x1b") || strings.Contains(out, "\nRuntimeReady  no") {
		t.Errorf("%q", out)
	}
	d.nodeInfo = nil
	if out, err = run(t, "status", "--json", "--socket", socket); err != nil || strings.Contains(out, "null") {
		t.Errorf("%s, %v", out, err)
	}
}
