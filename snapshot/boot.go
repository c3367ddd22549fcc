package snapshot

import (
	"fmt"
	"os"
	"strings"
)

// BootID identifies this boot of the kernel: what was not waited for may not have survived
// from another one.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
