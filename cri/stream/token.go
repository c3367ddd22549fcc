package stream

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"
)

const (
	// tokenLife is how long a URL waits for its client.
	tokenLife = time.Minute
	// maxTokens bounds the URLs that wait.
	maxTokens = 1000
)

// ErrTooMany is returned when there are as many URLs that nobody has fetched yet
// as may be.
var ErrTooMany = errors.New("too many streaming requests wait for their clients; try again in a minute")

// tokens are the URLs that wait for a client, each good once. The zero value has
// none.
type tokens struct {
	mu    sync.Mutex
	serve map[string]func(*session)
	queue []expiry // oldest first; may name tokens that are taken
}

type expiry struct {
	token string
	at    time.Time
}

// add makes a token for serve, which cannot be guessed.
func (t *tokens) add(serve func(*session)) (string, error) {
	now, token := time.Now(), rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) > 0 && (t.queue[0].at.Before(now) || t.serve[t.queue[0].token] == nil) {
		delete(t.serve, t.queue[0].token)
		t.queue = t.queue[1:]
	}
	if len(t.serve) >= maxTokens {
		return "", fmt.Errorf("streaming: %w", ErrTooMany)
	}
	if t.serve == nil {
		t.serve = map[string]func(*session){}
	}
	t.serve[token] = serve
	t.queue = append(t.queue, expiry{token, now.Add(tokenLife)})
	return token, nil
}

// take returns what a token is for, once and in time; nil for any other.
func (t *tokens) take(token string) func(*session) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	serve := t.serve[token]
	if serve == nil {
		return nil
	}
	delete(t.serve, token)
	for i, e := range t.queue {
		if e.token == token {
			t.queue = append(t.queue[:i:i], t.queue[i+1:]...)
			if e.at.Before(now) {
				return nil
			}
			return serve
		}
	}
	return nil
}

// tokenOf is the last part of a URL's path, after the kind.
func tokenOf(urlPath string) string { return path.Base(urlPath) }
