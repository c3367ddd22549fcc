package container

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
)

// A compilation that failed once is tried again.
func TestFilterFailure(t *testing.T) {
	tries := 0
	f := NewFilters(func(func() error) error {
		tries++
		return errors.New("no process to be had")
	})
	for range 2 {
		if file, _ := f.get(t.Context(), []byte("{}"), nil); file != nil {
			t.Error("a filter")
		}
	}
	if tries != 2 || len(f.known) != 0 {
		t.Errorf("%d tries, %d kept", tries, len(f.known))
	}
}

func everyIndex(names []string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range names {
			if !yield(i) {
				return
			}
		}
	}
}

// What is left of a profile for who has its filter decides the same of unknown calls.
func TestLastCalls(t *testing.T) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range profile.Syscalls {
		names = append(names, s.Names...)
	}
	archs := []string{"amd64", "x86", "x32", "arm64", "s390x"}
	last, err := lastCalls(archs, append(names, "no_such_call"))
	if err != nil || len(last) == 0 || len(last) > len(archs)+1 {
		t.Fatal(last, err)
	}
	for _, name := range archs {
		arch, err := libseccomp.GetArchFromString(name)
		if err != nil {
			t.Fatal(err)
		}
		highest := func(indexes iter.Seq[int]) (most libseccomp.ScmpSyscall) {
			for i := range indexes {
				if n, err := libseccomp.GetSyscallFromNameByArch(names[i], arch); err == nil {
					most = max(most, n)
				}
			}
			return most
		}
		if all, few := highest(everyIndex(names)), highest(slices.Values(last)); all != few || all == 0 {
			t.Errorf("%s: the last call is %d, and %d of what is left", name, all, few)
		}
	}
	if _, err := lastCalls([]string{"no such machine"}, names); err == nil {
		t.Error("an architecture that is not known was taken")
	}
}
