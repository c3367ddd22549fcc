package netns

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestCapabilities(t *testing.T) {
	tests := []struct {
		name string
		a    Attachment
		want string // JSON
		bad  bool   // ErrInvalid, and want is what remains
	}{
		{"nothing", Attachment{}, `{}`, false},
		{"ports", Attachment{PortMappings: []PortMapping{
			{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
			{HostPort: 0, ContainerPort: 81, Protocol: "TCP"},
			{HostPort: 53, ContainerPort: 53, Protocol: "UDP", HostIP: "127.0.0.1"},
			{HostPort: 54, ContainerPort: 55, Protocol: "Sctp", HostIP: "::1"},
			{HostPort: 1, ContainerPort: 2},
		}}, `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"127.0.0.1"},` +
			`{"hostPort":54,"containerPort":55,"protocol":"sctp","hostIP":"::1"},{"hostPort":1,"containerPort":2,"protocol":"tcp"}]}`, false},
		{"only ports that are not mapped", Attachment{PortMappings: []PortMapping{{ContainerPort: 80}}}, `{}`, false},
		{"bad ports", Attachment{PortMappings: []PortMapping{
			{HostPort: 65536, ContainerPort: 80}, {HostPort: -1, ContainerPort: 80}, {HostPort: 80},
			{HostPort: 80, ContainerPort: 80, Protocol: "icmp"}, {HostPort: 80, ContainerPort: 80, HostIP: "localhost"}, {HostPort: 81, ContainerPort: 80, HostIP: "fe80::1%eth0"},
			{HostPort: 80, ContainerPort: 80},
		}}, `{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"tcp"}]}`, true},
		{"bandwidth by annotations", Attachment{Annotations: map[string]string{IngressAnnotation: "10M", EgressAnnotation: "1.5Ki"}},
			`{"bandwidth":{"ingressRate":10000000,"ingressBurst":4294967295,"egressRate":1536,"egressBurst":4294967295},` +
				`"io.kubernetes.cri.pod-annotations":{"kubernetes.io/egress-bandwidth":"1.5Ki","kubernetes.io/ingress-bandwidth":"10M"}}`, false},
		{"bandwidth of one direction", Attachment{Bandwidth: Bandwidth{Egress: 5000}}, `{"bandwidth":{"egressRate":5000,"egressBurst":4294967295}}`, false},
		{"bad bandwidth", Attachment{Annotations: map[string]string{IngressAnnotation: "fast"}},
			`{"io.kubernetes.cri.pod-annotations":{"kubernetes.io/ingress-bandwidth":"fast"}}`, true},
		{"dns", Attachment{DNS: DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}}},
			`{"dns":{"servers":["10.0.0.10"],"searches":["svc.cluster.local"],"options":["ndots:5"]}}`, false},
		{"addresses", Attachment{IPs: []string{"10.88.0.7/16", "fd00::7"}}, `{"ips":["10.88.0.7/16","fd00::7"]}`, false},
		{"addresses by annotation", Attachment{Annotations: map[string]string{IPsAnnotation: "10.88.0.7, fd00::7/64"}},
			`{"ips":["10.88.0.7","fd00::7/64"],"io.kubernetes.cri.pod-annotations":{"berth.dev/ips":"10.88.0.7, fd00::7/64"}}`, false},
		{"a bad address", Attachment{IPs: []string{"10.88.0.300", "10.88.0.3"}}, `{"ips":["10.88.0.3"]}`, true},
		{"cgroup", Attachment{CgroupPath: "/kubepods/pod1"}, `{"cgroupPath":"/kubepods/pod1"}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			caps, err := tt.a.capabilities()
			if errors.Is(err, ErrInvalid) != tt.bad || !tt.bad && err != nil {
				t.Errorf("error: %v", err)
			}
			var got, want any
			data, _ := json.Marshal(caps)
			json.Unmarshal(data, &got)
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			if string(g) != string(w) {
				t.Errorf("got  %s\nwant %s", g, w)
			}
		})
	}
}

func TestParseRate(t *testing.T) {
	good := map[string]uint64{
		"1000": 1000, "1k": 1000, "10M": 10_000_000, "+10M": 10_000_000, "1.5G": 1_500_000_000, "1Ki": 1024, "2e6": 2_000_000,
		"2E6": 2_000_000, "1e+3": 1000, "1500000m": 1500, "1000001m": 1001, "1P": 1_000_000_000_000_000, ".5M": 500_000, "5.M": 5_000_000,
		"50000000e-3": 50_000,
	}
	for text, want := range good {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%s = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", ".", ".M", "-1M", "0", "999", "10 M", "10MB", "10mi", "1.2.3M", "0x10", "1/2", "2P", "1e99", "1e999999999", "1e", "e6", "1e--3", "NaN", "Inf",
		"111111111111111111111111", "1_000", "١٠M", "1e+-3"} {
		if got, err := parseRate(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q = %d, %v; want it refused", text, got, err)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"10M", "1.5Gi", "2e6", "1e-9", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rate, err := parseRate(text)
		if err == nil && (rate < minRate || rate > maxRate) {
			t.Errorf("%q = %d", text, rate)
		}
	})
}
