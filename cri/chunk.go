package cri

import (
	"errors"
	"fmt"
	"path"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// errTooLarge marks an answer that no CRI message can carry, and a configuration beyond its bounds.
var errTooLarge = errors.New("too large for a CRI message")

// chunkBytes is how much of a list one message of a stream carries, in encoded
// bytes, unless a single item is larger. It is below the 4 MiB that a gRPC
// client takes when nobody sets it, and far below kubelet's 16 MiB.
const chunkBytes = 2 << 20

// sendChunks sends items in their order, each once, in as few messages as
// chunkBytes allows; a list of none sends nothing. Callers hand it one snapshot
// of a list, so that a stream is consistent (KEP-5825). An item that no message
// can carry fails with errTooLarge before anything is sent, and the error names
// it.
func sendChunks[T proto.Message](items []T, send func([]T) error) error {
	sizes := make([]int, len(items))
	for i, item := range items {
		// One field of a message: tag, length, bytes. Lists are fields below 16.
		sizes[i] = protowire.SizeTag(1) + protowire.SizeBytes(proto.Size(item))
		if sizes[i] > maxMessage {
			return fmt.Errorf("item %s: has %d bytes, and a message holds %d: %w; remove it to see the others",
				itemName(item, i), sizes[i], maxMessage, errTooLarge)
		}
	}
	for start := 0; start < len(items); {
		end, sum := start+1, sizes[start]
		for end < len(items) && sum+sizes[end] <= chunkBytes {
			sum += sizes[end]
			end++
		}
		if err := send(items[start:end]); err != nil {
			return err
		}
		start = end
	}
	return nil
}

// itemName is the ID of an item of a list, or its place when it has none.
func itemName(item proto.Message, i int) string {
	switch m := item.(type) {
	case interface{ GetId() string }:
		return m.GetId()
	case interface{ GetPodSandboxId() string }:
		return m.GetPodSandboxId()
	}
	return fmt.Sprintf("%d (%T)", i, item)
}

// streamOf names the stream that gives the answer of a unary call in parts.
var streamOf = map[string]string{
	"ListPodSandbox":        "StreamPodSandboxes",
	"ListContainers":        "StreamContainers",
	"ListImages":            "StreamImages",
	"ListContainerStats":    "StreamContainerStats",
	"ListPodSandboxStats":   "StreamPodSandboxStats",
	"ListPodSandboxMetrics": "StreamPodSandboxMetrics",
}

// checkSize says what to do about an answer that gRPC would refuse to send.
func checkSize(fullMethod string, resp any) error {
	m, ok := resp.(proto.Message)
	if !ok {
		return nil
	}
	size := proto.Size(m)
	if size <= maxMessage {
		return nil
	}
	method := path.Base(fullMethod)
	do := "ask for less"
	if stream := streamOf[method]; stream != "" {
		do = fmt.Sprintf("call %s (kubelet: feature gate CRIListStreaming), or narrow the filter", stream)
	}
	return fmt.Errorf("%s: the answer has %d bytes, and a message holds %d: %w; %s",
		method, size, maxMessage, errTooLarge, do)
}
