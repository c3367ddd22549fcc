package cri

import (
	"fmt"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/cgroupstat"
)

// whole is a subject that has everything, each value another.
func whole() subject {
	return subject{
		labels: []string{"c", "/kubepods/pod1/c1", "image", "c1", "ns", "pod"},
		cgroup: &cgroupstat.Stats{
			CPU: cgroupstat.CPU{Usage: 5e9, User: 3e9, System: 2e9, Periods: 11, ThrottledPeriods: 12, ThrottledTime: 13e9, Shares: 14, Period: 15, Quota: 16},
			Memory: cgroupstat.Memory{Usage: 21, Limit: 22, WorkingSet: 23, RSS: 24, Faults: 25, MajorFaults: 26, LocalFaults: 27, LocalMajorFaults: 28,
				Cache: 29, MappedFile: 30, Kernel: 31, ActiveFile: 32, InactiveFile: 33, Peak: 34, LimitHits: 35, OOMKills: 36, Reservation: 37},
			Swap: cgroupstat.Swap{Known: true, Usage: 41, Limited: true, Limit: 42},
			Pressure: cgroupstat.Pressure{
				CPU:    &cgroupstat.Stall{Some: cgroupstat.StallTime{Total: 51e9}, Full: cgroupstat.StallTime{Total: 52e9}},
				Memory: &cgroupstat.Stall{Some: cgroupstat.StallTime{Total: 53e9}, Full: cgroupstat.StallTime{Total: 54e9}},
				IO:     &cgroupstat.Stall{Some: cgroupstat.StallTime{Total: 55e9}, Full: cgroupstat.StallTime{Total: 56e9}},
			},
			Tasks: 61, TasksMax: 62,
			IO:        []cgroupstat.DeviceIO{{Major: 4095, Minor: 1, ReadBytes: 63, WriteBytes: 64, Reads: 65, Writes: 66}},
			HugePages: []cgroupstat.HugePages{{Size: "2MB", Usage: 67, Peak: 68}},
		},
		processes: &cgroupstat.Processes{Count: 71, Descriptors: 72, Sockets: 73, OpenFiles: 74},
		network: []netns.Interface{{Name: "eth0", Default: true, RxBytes: 81, RxPackets: 82, RxErrors: 83, RxDropped: 84,
			TxBytes: 85, TxPackets: 86, TxErrors: 87, TxDropped: 88}},
		layer: &sandbox.LayerUsage{Bytes: 91, Inodes: 92, At: time.Unix(1000, 0)},
		fs:    &sandbox.Filesystem{Device: "/dev/vda", Size: 93, Inodes: 94, InodesFree: 95}, startedAt: 96e9, seenAt: time.Unix(97, 0),
	}
}

// wantMetrics is what there is to tell about whole: type, labels beyond the subject's, value.
// The device 4095:1 does not exist, so it has a number and no name.
const wantMetrics = `
counter container_cpu_usage_seconds_total{cpu=total} 5
counter container_cpu_user_seconds_total{} 3
counter container_cpu_system_seconds_total{} 2
counter container_cpu_cfs_periods_total{} 11
counter container_cpu_cfs_throttled_periods_total{} 12
counter container_cpu_cfs_throttled_seconds_total{} 13
gauge container_memory_usage_bytes{} 21
gauge container_memory_working_set_bytes{} 23
gauge container_memory_rss{} 24
gauge container_memory_cache{} 29
gauge container_memory_mapped_file{} 30
gauge container_memory_kernel_usage{} 31
gauge container_memory_swap{} 41
gauge container_memory_max_usage_bytes{} 34
counter container_memory_failcnt{} 35
gauge container_memory_total_active_file_bytes{} 32
gauge container_memory_total_inactive_file_bytes{} 33
counter container_memory_failures_total{failure_type=pgfault,scope=container} 27
counter container_memory_failures_total{failure_type=pgmajfault,scope=container} 28
counter container_memory_failures_total{failure_type=pgfault,scope=hierarchy} 25
counter container_memory_failures_total{failure_type=pgmajfault,scope=hierarchy} 26
counter container_oom_events_total{} 36
counter container_network_receive_bytes_total{interface=eth0} 81
counter container_network_receive_packets_total{interface=eth0} 82
counter container_network_receive_packets_dropped_total{interface=eth0} 84
counter container_network_receive_errors_total{interface=eth0} 83
counter container_network_transmit_bytes_total{interface=eth0} 85
counter container_network_transmit_packets_total{interface=eth0} 86
counter container_network_transmit_packets_dropped_total{interface=eth0} 88
counter container_network_transmit_errors_total{interface=eth0} 87
gauge container_fs_usage_bytes{device=/dev/vda} 91 @1000
gauge container_fs_limit_bytes{device=/dev/vda} 93
gauge container_fs_inodes_total{device=/dev/vda} 94
gauge container_fs_inodes_free{device=/dev/vda} 95
counter container_blkio_device_usage_total{device=,major=4095,minor=1,operation=Read} 63
counter container_blkio_device_usage_total{device=,major=4095,minor=1,operation=Write} 64
gauge container_processes{} 71
gauge container_file_descriptors{} 72
gauge container_sockets{} 73
gauge container_threads{} 61
gauge container_threads_max{} 62
gauge container_ulimits_soft{ulimit=max_open_files} 74
gauge container_spec_cpu_period{} 15
gauge container_spec_cpu_quota{} 16
gauge container_spec_cpu_shares{} 14
gauge container_spec_memory_limit_bytes{} 22
gauge container_spec_memory_reservation_limit_bytes{} 37
gauge container_spec_memory_swap_limit_bytes{} 42
gauge container_start_time_seconds{} 96
counter container_pressure_cpu_stalled_seconds_total{} 52
counter container_pressure_cpu_waiting_seconds_total{} 51
counter container_pressure_memory_stalled_seconds_total{} 54
counter container_pressure_memory_waiting_seconds_total{} 53
counter container_pressure_io_stalled_seconds_total{} 56
counter container_pressure_io_waiting_seconds_total{} 55
gauge container_hugetlb_usage_bytes{pagesize=2MB} 67
gauge container_hugetlb_max_usage_bytes{pagesize=2MB} 68
gauge container_last_seen{} 97
`

// TestMetricTable wants of every metric what its descriptor promises, and its value from
// where it belongs.
func TestMetricTable(t *testing.T) {
	resp, err := metrics{}.ListMetricDescriptors(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range resp.GetDescriptors() {
		if d.GetHelp() == "" || keys[d.GetName()] != nil || strings.Join(d.GetLabelKeys()[:6], " ") != "container id image name namespace pod" {
			t.Errorf("descriptor %v", d)
		}
		keys[d.GetName()] = d.GetLabelKeys()
	}
	var got strings.Builder
	got.WriteString("\n")
	s := whole()
	for _, m := range values(metricTable(), s) {
		k, v := keys[m.GetName()], m.GetLabelValues()
		if len(k) != len(v) {
			t.Errorf("%s: %d label keys, %d values", m.GetName(), len(k), len(v))
			continue
		}
		var extra []string
		for i := range k[6:] {
			extra = append(extra, k[6+i]+"="+v[6+i])
		}
		if strings.Join(v[:6], " ") != strings.Join(s.labels, " ") {
			t.Errorf("%s: of %v", m.GetName(), v)
		}
		fmt.Fprintf(&got, "%s %s{%s} %d", strings.ToLower(m.GetMetricType().String()), m.GetName(), strings.Join(extra, ","), m.GetValue().GetValue())
		if m.GetTimestamp() != 0 { // CRI, Metric: only of what was not gathered live
			fmt.Fprintf(&got, " @%d", m.GetTimestamp()/int64(time.Second))
		}
		got.WriteString("\n")
	}
	if got.String() != wantMetrics {
		t.Errorf("got %s", got.String())
	}
}

// What a subject has not is not told, and nothing panics over it.
func TestMetricsOfNothing(t *testing.T) {
	for _, m := range values(metricTable(), subject{labels: make([]string, 6), seenAt: time.Unix(1, 0)}) {
		if n := m.GetName(); n != "container_start_time_seconds" && n != "container_last_seen" {
			t.Errorf("of nothing: %v", m)
		}
	}
	s := subject{labels: make([]string, 6), cgroup: &cgroupstat.Stats{}}
	for _, m := range values(metricTable(), s) {
		if m.GetName() == "container_spec_cpu_quota" || strings.HasPrefix(m.GetName(), "container_pressure") {
			t.Errorf("of a cgroup without: %v", m)
		}
		if m.GetMetricType() == runtimeapi.MetricType_COUNTER && !strings.HasSuffix(m.GetName(), "_total") && m.GetName() != "container_memory_failcnt" {
			t.Errorf("a counter: %v", m)
		}
	}
}
