package cri

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// What one client may have going on, so that none takes the daemon from the others. All are
// far above what a kubelet with 250 pods does.
const (
	// maxCalls bounds the calls under way, all clients' together, streams among them. One more
	// is ResourceExhausted; Version and Status are let in all the same, since kubelet, the
	// watchdog and operators ask them to see how the daemon is.
	maxCalls = 8192
	// maxCallsOfOne bounds those of one connection. gRPC has the client wait with one more.
	maxCallsOfOne = 1024
	// maxMarks bounds the labels and annotations of one pod or container, in bytes of keys and
	// values. Kubernetes allows 256 KiB of annotations (apimachinery, TotalAnnotationSizeLimitB).
	maxMarks = 1 << 20
	// maxConfig bounds the configuration of one pod or container, in bytes of its message. It is
	// kept in memory, in the record and in each event. The kernel takes 6 MiB of arguments and environment.
	maxConfig = 8 << 20
)

// errTooMany refuses a call beyond maxCalls.
var errTooMany = errors.New("too many calls are under way; try again when some have ended")

// checkBounds refuses a configuration that is larger than any that Kubernetes can send.
func checkBounds(field string, config proto.Message, marks ...map[string]string) error {
	if n := proto.Size(config); n > maxConfig {
		return fmt.Errorf("%s: has %d bytes, more than %d: %w", field, n, maxConfig, errTooLarge)
	}
	n := 0
	for _, m := range marks {
		for k, v := range m {
			n += len(k) + len(v)
		}
	}
	if n > maxMarks {
		return fmt.Errorf("%s: labels and annotations have %d bytes, more than %d: %w", field, n, maxMarks, errTooLarge)
	}
	return nil
}
