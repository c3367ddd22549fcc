package bundle

import (
	"encoding/json"
	"fmt"
)

// said are the keys of texts in records that are taken as they are: berthd's own words, names
// and IDs that are on kubelet's command line and in its log anyway, and paths. Of all others,
// those that a later release adds too, only the length is.
var said = map[string]bool{
	"id": true, "podID": true, "state": true, "bootID": true, "handler": true, "reason": true, "level": true, "pidNamespace": true,
	"Net": true, "IPC": true, "UTS": true, "User": true, "net": true, "ips": true, "owed": true, "start": true, "error": true, "refusal": true,
	"name": true, "namespace": true, "uid": true, "hostname": true, "logDirectory": true, "logPath": true, "cgroupParent": true,
	"image": true, "userSpecifiedImage": true, "imageRef": true, "ref": true, "diffIDs": true, "runtimeHandler": true,
	"containerPath": true, "hostPath": true, "propagation": true, "profileType": true, "network": true, "pid": true, "ipc": true, "targetId": true,
	"key": true, "protocol": true, "hostIp": true, "servers": true, "searches": true, "type": true, "role": true,
	"addCapabilities": true, "dropCapabilities": true, "maskedPaths": true, "readonlyPaths": true, "created": true,
	"cpuPeriod": true, "cpuQuota": true, "cpuShares": true, "memoryLimitInBytes": true, "oomScoreAdj": true, "cpusetCpus": true, "cpusetMems": true,
	"createdAt": true,
}

// redact returns the record in an envelope, indented, without what may be a secret.
func redact(data []byte) ([]byte, error) {
	var envelope struct{ Record any }
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, err
	}
	return json.MarshalIndent(clean("", envelope.Record), "", " ")
}

// clean is a value that a record has under key.
func clean(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if key == "annotations" || key == "labels" || key == "updateAnnotations" {
				out[k] = clean("", e) // k is a user's word, which may be that of a key
			} else {
				out[k] = clean(k, e)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clean(key, e)
		}
		return out
	case string:
		if said[key] {
			return v
		}
		return fmt.Sprintf("(%d bytes)", len(v))
	default: // a number, a truth value or nothing
		return v
	}
}
