// Package sandbox says what a pod and a container are: a list of reversible
// steps, a record that says how far it may have got, and a state.
//
// Everything a pod or container owns is named by its ID, and every step's undo
// is total: it succeeds when the step never ran, ran half, or was undone
// already. Rollback of a failed creation, StopPodSandbox, RemovePodSandbox and
// recovery after a crash are therefore one function, teardown. The step lists,
// (*Pods).steps and (*Containers).steps, are the table of contents.
//
// Everything here may be called again after a crash of the daemon: Open reads
// the records, adopts what runs, takes down what was being made or removed, and
// sweeps what has no record. No container needs this process to go on running.
//
// Records are values behind an atomic pointer; List and Status take no lock and
// never wait for the disk. Operations that change one pod or container come one
// at a time for that object, each under its own deadline and not the caller's;
// who asks for the same operation again joins the one under way.
package sandbox
