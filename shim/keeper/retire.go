package keeper

import "os"

// retire ends the shim after a SIGTERM, which is what a machine that shuts down sends
// to all processes it waits for: at once when no container runs, else with the last one.
// It ends no container itself. What the daemon is to know is on record by then.
func (k *Keeper) retire(asked <-chan os.Signal) {
	<-asked
	k.mu.Lock()
	k.retiring = true
	k.mu.Unlock()
	k.checkRetired()
}

// checkRetired closes retired when that is due.
func (k *Keeper) checkRetired() {
	k.mu.Lock()
	retiring := k.retiring
	k.mu.Unlock()
	if !retiring {
		return
	}
	for _, t := range k.list() {
		if t.snapshot().status != exited {
			return
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.stopped = true
		close(k.retired)
	}
}
