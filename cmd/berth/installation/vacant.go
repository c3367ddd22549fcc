package installation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// vacant is an error while pods are on record, and says what to do about them.
func (n *node) vacant() error {
	dir, err := securejoin.SecureJoin(n.root, filepath.Join(n.cfg.Root, "pods"))
	if err != nil {
		return err
	}
	pods, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || n.o.Force {
		return nil
	}
	if err != nil || len(pods) == 0 {
		return err
	}
	removed, cause := 0, ""
	for _, pod := range pods {
		if why := owes(filepath.Join(dir, pod.Name(), "pod.json")); why != "" {
			removed, cause = removed+1, why
		}
	}
	var advice []string
	if listed := len(pods) - removed; listed > 0 {
		advice = append(advice, fmt.Sprintf("%d pods are on record in %s: drain the node, stop kubelet, and remove them with berthd running (crictl rmp -fa)",
			listed, filepath.Join(n.cfg.Root, "pods")))
	}
	if removed > 0 {
		advice = append(advice, fmt.Sprintf("%d pods were removed, and the CNI plugin has not taken their addresses back (%s): "+
			"mend it with berthd running, which then does the rest by itself (berth status)", removed, cause))
	}
	return errors.New(strings.Join(advice, "; ") + "; --force uninstalls all the same, leaves containers running until the machine reboots and addresses taken")
}

// maxPodRecord bounds a pod's record, in bytes; the daemon's own bound.
const maxPodRecord = 32 << 20

// owes tells why the address of a pod that was removed has not been given back; empty
// for other pods, and for what cannot be read.
func owes(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var rec struct {
		Record struct {
			State string `json:"state"`
			Owed  string `json:"owed"`
		} `json:"record"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxPodRecord)).Decode(&rec); err != nil || rec.Record.State != "removing" {
		return ""
	}
	return rec.Record.Owed
}
