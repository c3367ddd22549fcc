package stream

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// A keyPair is a certificate and its key in files. It is read again when either
// has changed; while that fails, the one before serves.
type keyPair struct {
	cert, key string

	mu   sync.Mutex
	read *tls.Certificate
	at   [2]time.Time // of what was read last
}

// get is a tls.Config's GetCertificate.
func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, err := k.times()
	if err == nil && k.read != nil && at == k.at {
		return k.read, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(k.cert, k.key); err == nil {
			k.read, k.at = &pair, at
			return k.read, nil
		}
	}
	if k.read == nil {
		return nil, err
	}
	klog.ErrorS(err, "The streaming server's certificate cannot be read again; the one before stays in use", "cert", k.cert, "key", k.key)
	return k.read, nil
}

// times are when the files were changed.
func (k *keyPair) times() (at [2]time.Time, err error) {
	for i, path := range [...]string{k.cert, k.key} {
		fi, err := os.Stat(path)
		if err != nil {
			return at, err
		}
		at[i] = fi.ModTime()
	}
	return at, nil
}
