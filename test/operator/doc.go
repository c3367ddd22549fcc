// Package operator runs the operator's program against a daemon: images that are pulled,
// exported, imported and verified by it have containers run from them.
package operator
