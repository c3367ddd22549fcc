package sandbox

import "errors"

// What a caller may want to tell apart. They are wrapped as "thing: fact: cause".
var (
	// ErrNotFound is returned for an ID or a name that no pod, container or target has.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous is returned for an ID prefix that fits more than one object.
	ErrAmbiguous = errors.New("ID prefix fits more than one; give more of it")
	// ErrNameTaken is returned when a pod or container of that name and attempt
	// exists already and cannot be what the caller asks for.
	ErrNameTaken = errors.New("name and attempt already in use")
	// ErrBadState is returned for an operation that the object's state does not allow.
	ErrBadState = errors.New("not allowed in this state")
	// ErrInvalid is returned for a request that can never succeed as sent.
	ErrInvalid = errors.New("invalid request")
	// ErrUnknownHandler is returned for a runtime handler that is not configured.
	ErrUnknownHandler = errors.New("unknown runtime handler; name it in [handlers] of the configuration")
	// ErrNoUserNamespaces is returned for a pod that wants a user namespace on a node
	// whose kernel or file system cannot have one.
	ErrNoUserNamespaces = errors.New("this node cannot have pods in user namespaces")
	// ErrMountSource is returned for a mount whose source on the node is missing, or does
	// not propagate mounts as asked for.
	ErrMountSource = errors.New("cannot be mounted")
	// ErrCDI is returned for a CDI device that the node does not have or cannot give.
	ErrCDI = errors.New("device not available")
	// ErrClosed is returned when the daemon is stopping.
	ErrClosed = errors.New("berthd is stopping")
)

// errGone tells a creation that its object was removed before it began.
var errGone = errors.New("removed meanwhile")
