// Package abuse treats berthd as a bad neighbour would, or a broken client: commands that leave
// children behind, sessions that are dropped, floods of log, connections that say nothing, URLs
// that nobody fetches, readers that do not read, ten thousand calls at once, configurations of many
// megabytes. Others are served meanwhile, and afterwards berthd has the goroutines and descriptors
// that it had before, and its shims theirs, and memory within a bound.
//
//	go test -v ./test/abuse    a short form
//	make test-abuse            the whole
package abuse
