package stream

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A token is good once and for its time; those that are over make room.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all tokens
		serve := func(*session) {}
		add := func() string {
			t.Helper()
			token, err := all.add(serve)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		once := add()
		if all.take(once) == nil || all.take(once) != nil || all.take("") != nil {
			t.Error("a token is not good exactly once")
		}
		young, old := add(), add()
		time.Sleep(tokenLife - time.Second)
		if all.take(young) == nil {
			t.Error("a token in its time is not good")
		}
		time.Sleep(2 * time.Second)
		if all.take(old) != nil {
			t.Error("an expired token is good")
		}
		for range maxTokens {
			add()
		}
		if _, err := all.add(serve); !errors.Is(err, ErrTooMany) {
			t.Errorf("one more: %v", err)
		}
		time.Sleep(tokenLife + time.Second)
		add()
	})
}
