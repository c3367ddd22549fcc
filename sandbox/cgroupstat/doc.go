// Package cgroupstat reads what the kernel counts for a cgroup: CPU time, memory,
// swap, pressure, block I/O, processes and huge pages, on cgroup v1, v2 and the hybrid
// of both.
//
// A Tree knows where the hierarchies are mounted. A cgroup goes by its path below
// their roots, which is the same in all of them. Reading waits for nobody and starts nothing;
// each file of a cgroup is read once per call, with a size cap. Read keeps the files open, as
// far as the process's limit of descriptors has room for them, until Retain.
//
// A cgroup that is not there, or goes while it is read, is an fs.ErrNotExist. What the
// kernel does not tell (pressure on a kernel without PSI, swap without swap accounting)
// is absent from the result and no error.
//
// Times are nanoseconds, sizes are bytes. Counters named "cumulative" only grow while
// the cgroup lives.
package cgroupstat
