package cri

import (
	"slices"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox/cgroupstat"
)

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// metricTable is all metrics there are, by cAdvisor's names, which dashboards and alerts
// are written for. The CRI carries whole numbers, so seconds are rounded down.
func metricTable() []metric {
	return slices.Concat(cpuMetrics, memoryMetrics, networkMetrics, diskMetrics, processMetrics, specMetrics, pressureMetrics, otherMetrics)
}

// ofCgroup is one sample of a subject's cgroup.
func ofCgroup(get func(*cgroupstat.Stats) uint64) func(subject) []sample {
	return func(s subject) []sample {
		if s.cgroup == nil {
			return nil
		}
		return []sample{{value: get(s.cgroup)}}
	}
}

func ofCPU(get func(cgroupstat.CPU) uint64) func(subject) []sample {
	return ofCgroup(func(c *cgroupstat.Stats) uint64 { return get(c.CPU) })
}

func ofMemory(get func(cgroupstat.Memory) uint64) func(subject) []sample {
	return ofCgroup(func(c *cgroupstat.Stats) uint64 { return get(c.Memory) })
}

func seconds64(ns uint64) uint64 { return ns / uint64(time.Second) }

var cpuMetrics = []metric{
	{name: "container_cpu_usage_seconds_total", help: "CPU time used, in seconds.", kind: counter, labels: []string{"cpu"},
		samples: func(s subject) []sample {
			if s.cgroup == nil {
				return nil
			}
			return []sample{{value: seconds64(s.cgroup.CPU.Usage), labels: []string{"total"}}}
		}},
	{name: "container_cpu_user_seconds_total", help: "CPU time used in user mode, in seconds.", kind: counter,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return seconds64(c.User) })},
	{name: "container_cpu_system_seconds_total", help: "CPU time used in the kernel, in seconds.", kind: counter,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return seconds64(c.System) })},
	{name: "container_cpu_cfs_periods_total", help: "Enforcement periods of the CPU quota that have passed.", kind: counter,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return c.Periods })},
	{name: "container_cpu_cfs_throttled_periods_total", help: "Enforcement periods in which the CPU quota was used up.", kind: counter,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return c.ThrottledPeriods })},
	{name: "container_cpu_cfs_throttled_seconds_total", help: "Time spent waiting for CPU quota, in seconds.", kind: counter,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return seconds64(c.ThrottledTime) })},
}

var memoryMetrics = []metric{
	{name: "container_memory_usage_bytes", help: "Memory in use, in bytes, whenever it was last touched.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.Usage })},
	{name: "container_memory_working_set_bytes", help: "Memory in use without inactive file pages, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.WorkingSet })},
	{name: "container_memory_rss", help: "Anonymous memory, huge pages included, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.RSS })},
	{name: "container_memory_cache", help: "Page cache, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.Cache })},
	{name: "container_memory_mapped_file", help: "Files mapped into memory, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.MappedFile })},
	{name: "container_memory_kernel_usage", help: "Kernel memory, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.Kernel })},
	{name: "container_memory_swap", help: "Swap in use, in bytes.", kind: gauge,
		samples: ofCgroup(func(c *cgroupstat.Stats) uint64 { return c.Swap.Usage })},
	{name: "container_memory_max_usage_bytes", help: "The most memory that was ever in use, in bytes; 0 where the kernel does not keep it.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.Peak })},
	{name: "container_memory_failcnt", help: "How often memory usage has reached the limit.", kind: counter,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.LimitHits })},
	{name: "container_memory_total_active_file_bytes", help: "Active file pages, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.ActiveFile })},
	{name: "container_memory_total_inactive_file_bytes", help: "Inactive file pages, in bytes.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.InactiveFile })},
	{name: "container_memory_failures_total", help: "Page faults, by kind, of the cgroup itself and with all below it.", kind: counter,
		labels: []string{"failure_type", "scope"}, samples: pageFaults},
	{name: "container_oom_events_total", help: "Processes that the kernel has killed for want of memory.", kind: counter,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.OOMKills })},
}

func pageFaults(s subject) []sample {
	if s.cgroup == nil {
		return nil
	}
	m := s.cgroup.Memory
	return []sample{
		{value: m.LocalFaults, labels: []string{"pgfault", "container"}},
		{value: m.LocalMajorFaults, labels: []string{"pgmajfault", "container"}},
		{value: m.Faults, labels: []string{"pgfault", "hierarchy"}},
		{value: m.MajorFaults, labels: []string{"pgmajfault", "hierarchy"}},
	}
}

// networkMetrics are of pods: containers have no interfaces of their own.
var networkMetrics = []metric{
	interfaceMetric("receive_bytes", "Bytes received.", func(i netns.Interface) uint64 { return i.RxBytes }),
	interfaceMetric("receive_packets", "Packets received.", func(i netns.Interface) uint64 { return i.RxPackets }),
	interfaceMetric("receive_packets_dropped", "Packets dropped on receipt.", func(i netns.Interface) uint64 { return i.RxDropped }),
	interfaceMetric("receive_errors", "Errors on receipt.", func(i netns.Interface) uint64 { return i.RxErrors }),
	interfaceMetric("transmit_bytes", "Bytes sent.", func(i netns.Interface) uint64 { return i.TxBytes }),
	interfaceMetric("transmit_packets", "Packets sent.", func(i netns.Interface) uint64 { return i.TxPackets }),
	interfaceMetric("transmit_packets_dropped", "Packets dropped on sending.", func(i netns.Interface) uint64 { return i.TxDropped }),
	interfaceMetric("transmit_errors", "Errors on sending.", func(i netns.Interface) uint64 { return i.TxErrors }),
}

func interfaceMetric(name, help string, get func(netns.Interface) uint64) metric {
	return metric{name: "container_network_" + name + "_total", help: help, kind: counter, labels: []string{"interface"},
		samples: func(s subject) (list []sample) {
			for _, i := range s.network {
				list = append(list, sample{value: get(i), labels: []string{i.Name}})
			}
			return list
		}}
}

var diskMetrics = []metric{
	{name: "container_fs_usage_bytes", help: "Disk space that the writable layer takes, in bytes, when it was last measured.", kind: gauge,
		labels: []string{"device"}, samples: func(s subject) []sample {
			if s.layer == nil {
				return nil
			}
			return []sample{{value: s.layer.Bytes, labels: []string{s.fs.Device}, at: s.layer.At}}
		}},
	filesystemMetric("container_fs_limit_bytes", "Size of the file system of the writable layer, in bytes.", func(s subject) uint64 { return s.fs.Size }),
	filesystemMetric("container_fs_inodes_total", "Inodes of the file system of the writable layer.", func(s subject) uint64 { return s.fs.Inodes }),
	filesystemMetric("container_fs_inodes_free", "Free inodes of the file system of the writable layer.", func(s subject) uint64 { return s.fs.InodesFree }),
	deviceMetric("container_fs_reads_bytes_total", "Bytes read.", func(d cgroupstat.DeviceIO) uint64 { return d.ReadBytes }),
	deviceMetric("container_fs_reads_total", "Reads completed.", func(d cgroupstat.DeviceIO) uint64 { return d.Reads }),
	deviceMetric("container_fs_writes_bytes_total", "Bytes written.", func(d cgroupstat.DeviceIO) uint64 { return d.WriteBytes }),
	deviceMetric("container_fs_writes_total", "Writes completed.", func(d cgroupstat.DeviceIO) uint64 { return d.Writes }),
	{name: "container_blkio_device_usage_total", help: "Bytes read and written, by device and operation.", kind: counter,
		labels: []string{"device", "major", "minor", "operation"}, samples: blkioUsage},
}

func filesystemMetric(name, help string, get func(subject) uint64) metric {
	return metric{name: name, help: help, kind: gauge, labels: []string{"device"}, samples: func(s subject) []sample {
		if s.fs == nil {
			return nil
		}
		return []sample{{value: get(s), labels: []string{s.fs.Device}}}
	}}
}

func deviceMetric(name, help string, get func(cgroupstat.DeviceIO) uint64) metric {
	return metric{name: name, help: help, kind: counter, labels: []string{"device"}, samples: func(s subject) (list []sample) {
		if s.cgroup == nil {
			return nil
		}
		for _, d := range s.cgroup.IO {
			if name := cgroupstat.DeviceName(d.Major, d.Minor); name != "" { // without one, devices could not be told apart
				list = append(list, sample{value: get(d), labels: []string{name}})
			}
		}
		return list
	}}
}

func blkioUsage(s subject) (list []sample) {
	if s.cgroup == nil {
		return nil
	}
	for _, d := range s.cgroup.IO {
		name := cgroupstat.DeviceName(d.Major, d.Minor)
		major, minor := strconv.FormatUint(uint64(d.Major), 10), strconv.FormatUint(uint64(d.Minor), 10)
		list = append(list, sample{value: d.ReadBytes, labels: []string{name, major, minor, "Read"}},
			sample{value: d.WriteBytes, labels: []string{name, major, minor, "Write"}})
	}
	return list
}

var processMetrics = []metric{
	processMetric("container_processes", "Processes.", func(p *cgroupstat.Processes) uint64 { return p.Count }),
	processMetric("container_file_descriptors", "Open file descriptors.", func(p *cgroupstat.Processes) uint64 { return p.Descriptors }),
	processMetric("container_sockets", "Open sockets.", func(p *cgroupstat.Processes) uint64 { return p.Sockets }),
	{name: "container_threads", help: "Threads.", kind: gauge,
		samples: ofCgroup(func(c *cgroupstat.Stats) uint64 { return c.Tasks })},
	{name: "container_threads_max", help: "The most threads that are allowed; 0: no limit.", kind: gauge,
		samples: ofCgroup(func(c *cgroupstat.Stats) uint64 { return c.TasksMax })},
	{name: "container_ulimits_soft", help: "Soft limits of the first process, those that are not unlimited.", kind: gauge, labels: []string{"ulimit"},
		samples: func(s subject) []sample {
			if s.processes == nil || s.processes.OpenFiles == 0 {
				return nil
			}
			return []sample{{value: s.processes.OpenFiles, labels: []string{"max_open_files"}}}
		}},
}

func processMetric(name, help string, get func(*cgroupstat.Processes) uint64) metric {
	return metric{name: name, help: help, kind: gauge, samples: func(s subject) []sample {
		if s.processes == nil {
			return nil
		}
		return []sample{{value: get(s.processes)}}
	}}
}

var specMetrics = []metric{
	{name: "container_spec_cpu_period", help: "CPU enforcement period, in microseconds.", kind: gauge,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return c.Period })},
	{name: "container_spec_cpu_quota", help: "CPU time allowed in each period, in microseconds; absent without a limit.", kind: gauge,
		samples: func(s subject) []sample {
			if s.cgroup == nil || s.cgroup.CPU.Quota == 0 {
				return nil
			}
			return []sample{{value: s.cgroup.CPU.Quota}}
		}},
	{name: "container_spec_cpu_shares", help: "CPU shares.", kind: gauge,
		samples: ofCPU(func(c cgroupstat.CPU) uint64 { return c.Shares })},
	{name: "container_spec_memory_limit_bytes", help: "Memory limit, in bytes; 0: no limit.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.Limit })},
	{name: "container_spec_memory_reservation_limit_bytes", help: "Memory that is reserved, in bytes; 0: none.", kind: gauge,
		samples: ofMemory(func(m cgroupstat.Memory) uint64 { return m.Reservation })},
	{name: "container_spec_memory_swap_limit_bytes", help: "Swap limit, in bytes; 0: no limit, or no swap.", kind: gauge,
		samples: ofCgroup(func(c *cgroupstat.Stats) uint64 { return c.Swap.Limit })},
	{name: "container_start_time_seconds", help: "When it was started, in seconds since 1970.", kind: gauge,
		samples: func(s subject) []sample { return []sample{{value: seconds64(uint64(max(s.startedAt, 0)))}} }},
}

// pressureMetrics: cAdvisor says "stalled" where the kernel says "full", and "waiting"
// where it says "some".
var pressureMetrics = slices.Concat(
	pressure("cpu", func(p cgroupstat.Pressure) *cgroupstat.Stall { return p.CPU }),
	pressure("memory", func(p cgroupstat.Pressure) *cgroupstat.Stall { return p.Memory }),
	pressure("io", func(p cgroupstat.Pressure) *cgroupstat.Stall { return p.IO }),
)

func pressure(resource string, get func(cgroupstat.Pressure) *cgroupstat.Stall) []metric {
	one := func(word, help string, of func(*cgroupstat.Stall) uint64) metric {
		return metric{name: "container_pressure_" + resource + "_" + word + "_seconds_total", help: help, kind: counter,
			samples: func(s subject) []sample {
				if s.cgroup == nil || get(s.cgroup.Pressure) == nil {
					return nil
				}
				return []sample{{value: seconds64(of(get(s.cgroup.Pressure)))}}
			}}
	}
	return []metric{
		one("stalled", "Time that all tasks waited for "+resource+" at once, in seconds.", func(s *cgroupstat.Stall) uint64 { return s.Full.Total }),
		one("waiting", "Time that some task waited for "+resource+", in seconds.", func(s *cgroupstat.Stall) uint64 { return s.Some.Total }),
	}
}

var otherMetrics = []metric{
	hugePageMetric("container_hugetlb_usage_bytes", "Huge pages in use, in bytes, by page size.", func(h cgroupstat.HugePages) uint64 { return h.Usage }),
	hugePageMetric("container_hugetlb_max_usage_bytes", "The most huge pages that were ever in use, in bytes; 0 where the kernel does not keep it.",
		func(h cgroupstat.HugePages) uint64 { return h.Peak }),
	{name: "container_last_seen", help: "When it was last seen, in seconds since 1970.", kind: gauge,
		samples: func(s subject) []sample { return []sample{{value: uint64(s.seenAt.Unix())}} }},
}

func hugePageMetric(name, help string, get func(cgroupstat.HugePages) uint64) metric {
	return metric{name: name, help: help, kind: gauge, labels: []string{"pagesize"}, samples: func(s subject) (list []sample) {
		if s.cgroup == nil {
			return nil
		}
		for _, h := range s.cgroup.HugePages {
			list = append(list, sample{value: get(h), labels: []string{h.Size}})
		}
		return list
	}}
}
