// Package apparmor has the default AppArmor profile of containers in the kernel.
//
// Its promise: when Load returns without an error the profile was loaded a moment
// ago. Loading again does no harm: the kernel replaces a profile, and what runs under
// it goes on under the new one. Profiles stay loaded when the daemon ends, since
// containers do not.
package apparmor
