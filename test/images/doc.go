// Package images makes the container images that the tests run and serves them
// from a registry on loopback. Nothing comes from the internet: busybox, pgrep
// and ipcs are copied from the machine's Debian packages together with the
// libraries they link, and the servers are small programs in the folders beside
// this file.
//
// The images carry the names that critest v1.36.0 asks for. A runtime reaches
// them through the mirrors of a certs.d folder that Serve writes, so the names
// stay what they are: registry.k8s.io/pause:3.9 is asked for, and the registry
// on loopback answers with the repository "pause".
//
// Between them the images use every form a runtime has to read: gzip, zstd and
// uncompressed layers, OCI and Docker schema 2 manifests, an index of several
// platforms, hard links, symbolic links, a set-user-ID file, whiteouts and
// opaque directories.
//
// Serve may be called again after a crash, and from several processes at once:
// the registry's storage is built aside, named by a hash of all that goes into
// it, and put in place by one rename.
package images
