package shim

import "time"

// SetMuteAfter is how long tests want a silent shim to be waited for. It comes before the first call.
func (s *Shims) SetMuteAfter(d time.Duration) { s.muteAfter = d }

// IsOrphan is isOrphan.
func IsOrphan(pid, session int) bool { return isOrphan(pid, session) }
