package node

import (
	"fmt"
	"os"
	"path/filepath"
)

// Lead writes the hosts.toml by which a runtime finds the registry name at url and nowhere
// else, into certs, a certs.d folder.
func Lead(certs, name, url string) error {
	dir := filepath.Join(certs, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("server = %[1]q\n\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", url)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)
}
