package snapshot

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"

	"k8s.io/klog/v2"
)

// tried is what this kernel can do with this file system. It is tried out at each start, and
// kept in tried.json for the start that has no room to: that daemon has to come up, as it is
// the one that can make room.
type tried struct {
	Driver  string   `json:"driver"`
	Options []string `json:"options,omitempty"` // of every overlay
	Loops   bool     `json:"loops,omitempty"`   // an EROFS file is mounted by a loop device
	Verity  bool     `json:"verity,omitempty"`  // there is fs-verity
}

func (o *overlay) triedFile() string { return filepath.Join(o.dir, "tried.json") }

// recall takes what was kept when err says that there was no room to try it. Every other
// error stays.
func (o *overlay) recall(ctx context.Context, err error) error {
	if err == nil || !isFull(err) {
		return err
	}
	var kept tried
	if rerr := readRecord(o.triedFile(), &kept); rerr != nil {
		return errors.Join(err, rerr)
	}
	if kept.Driver != o.tried.Driver {
		return err
	}
	klog.FromContext(ctx).Error(err, "The disk is full: what the kernel can do is taken to be what it was at the last start", "dir", o.dir)
	o.tried = kept
	return nil
}

// keep writes down what was found, for recall.
func (o *overlay) keep() error {
	var kept tried
	if err := readRecord(o.triedFile(), &kept); err == nil && reflect.DeepEqual(kept, o.tried) {
		return nil
	}
	if err := writeRecord(o.triedFile(), o.tried); err != nil && !isFull(err) {
		return err
	}
	return nil
}
