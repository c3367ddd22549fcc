// Package logs has many containers say numbered lines while their logs are rotated as kubelet
// does it and berthd and shims are killed, and expects each line once, whole and in its place.
//
//	go test -v ./test/logs                  20 containers, 8 s
//	BERTH_LOGS=all go test -v ./test/logs   100 containers, 1,000,000 lines in a minute
package logs
