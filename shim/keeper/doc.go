// Package keeper is the shim's inside: it keeps containers alive. A Keeper is
// the parent and subreaper of their processes, owns their standard streams,
// writes their logs and exit records, and answers the daemon on a unix socket
// with Task v3 and the Keeper service of package api.
//
// One process serves the containers of many pods. It outlives the daemon, and
// ends by itself when it has neither a task nor a connection.
//
// Everything of a task is named by its ID, and Delete takes all of it away:
// processes, cgroups, libcontainer's state and the task's record. It may be
// called at any time and again; so may the function Delete, which does the same
// for a task whose shim is dead. The bundle and what is mounted in it belong to
// the caller.
package keeper
