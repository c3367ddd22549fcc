package streaming

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTLS serves with a certificate of the settings.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	conf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, conf, conf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: cert}, "key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, fmt.Sprintf("[streaming]\naddress = \"127.0.0.1:0\"\ntls_cert = \"%[1]s/cert\"\ntls_key = \"%[1]s/key\"\n", dir))
	_, id := s.start(t, "tls", "exec sleep 1000", nil)
	for _, p := range protocols {
		url := s.exec(t, id, "cat; exit 3", all)
		if !strings.HasPrefix(url, "https://") {
			t.Errorf("URL %s", url)
		}
		c := join(t, p, url, all)
		go func() {
			c.in.Write([]byte("through\n"))
			c.in.Close()
		}()
		if o := c.rest(); o.out != "through\n" || o.code(t) != 3 {
			t.Errorf("%s: %+v", p, o)
		}
	}
	s.Done(t)
}
