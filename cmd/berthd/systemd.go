package main

import "github.com/coreos/go-systemd/v22/daemon"

// tell says to systemd, if it started this process, what the daemon does
// (sd_notify(3)). state is one of its words, as READY=1, or "".
func tell(state, text string) {
	if state != "" {
		state += "\n"
	}
	_, _ = daemon.SdNotify(false, state+"STATUS="+text) // whoever started it need not listen
}
