package keeper

import (
	"errors"
	"os"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/shim/api"
)

// save writes the task's record.
func (k *Keeper) save(t *task) error {
	t.saving.Lock()
	defer t.saving.Unlock()
	if t.gone {
		return nil
	}
	rec := api.TaskRecord(t.rec)
	rec.Version = api.RecordVersion
	t.mu.Lock()
	rec.Pid, rec.Began, rec.OOMBefore, rec.OOMAbove = t.state.pid, t.began, t.oomBefore, t.oomAbove
	t.mu.Unlock()
	if t.io != nil {
		rec.Pipes = t.io.pipes
	}
	return api.WriteRecord(api.TaskPath(k.o.Dir, t.rec.ID), rec)
}

// unsave removes the task's record.
func (k *Keeper) unsave(t *task) error {
	t.saving.Lock()
	defer t.saving.Unlock()
	t.gone = true
	record := api.TaskPath(k.o.Dir, t.rec.ID)
	crashpoint.At("remove", record)
	if err := os.Remove(record); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	crashpoint.At("removed", record)
	return nil
}
