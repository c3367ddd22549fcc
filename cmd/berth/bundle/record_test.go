package bundle

import (
	"strings"
	"testing"
)

// TestRedact: texts that are not known to be harmless are not in a bundle, whatever their key.
func TestRedact(t *testing.T) {
	got, err := redact([]byte(`{"sha256":"x","record":{"id":"abc","netConf":"S3CRET","exitCode":3,"config":{"metadata":{"name":"web"},
		"command":["sh","S3CRET"],"envs":[{"key":"PASSWORD","value":"S3CRET"}],"annotations":{"id":"S3CRET"},"labels":{"name":"S3CRET"},"later":{"text":"S3CRET"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), "S3CRET") {
		t.Errorf("%s", got)
	}
	for _, want := range []string{`"abc"`, `"web"`, `"PASSWORD"`, `"(6 bytes)"`, "3"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if _, err := redact([]byte("torn")); err == nil {
		t.Error("no error for what is no record")
	}
}
