package spec

import (
	"errors"
	"fmt"
)

// What a caller may want to tell apart.
var (
	// ErrInvalid marks a request, or an image's configuration, that can never
	// become a container as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrUnsupported marks something CRI allows and this version does not do.
	ErrUnsupported = errors.New("not supported")
	// ErrRROUnsupported marks a recursive read-only mount on a kernel without
	// mount_setattr. Its text is the prefix that cri-api (pkg/errors) gives
	// this failure, and package sandbox puts it first in the message.
	ErrRROUnsupported = errors.New("RROUnsupported")
	// ErrNoProfile marks a Localhost profile of seccomp or AppArmor that the node does
	// not have; it may be put there.
	ErrNoProfile = errors.New("no such profile on this node")
	// ErrNoSuchUser marks a user name that the image's /etc/passwd does not have.
	ErrNoSuchUser = errors.New("not in the image's passwd file")
	// ErrNoSuchGroup marks a group name that the image's /etc/group does not have.
	ErrNoSuchGroup = errors.New("not in the image's group file")
)

// invalid says what is wrong with a request: "thing: fact: invalid request".
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrInvalid)...)
}

// unsupported says what is not done yet: "thing: fact: not supported".
func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrUnsupported)...)
}

// recursiveReadOnlyError is an ErrRROUnsupported.
func recursiveReadOnlyError(at string) error {
	return fmt.Errorf("mount %s: recursive read-only: the kernel has no mount_setattr (Linux 5.12): %w", at, ErrRROUnsupported)
}
