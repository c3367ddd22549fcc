package registry

import (
	"net/url"
	"slices"
	"strings"
	"sync"
)

// minSecret is the shortest secret that is redacted, in bytes. A shorter one would be
// found in every word and protects nothing.
const minSecret = 4

// secrets is all that one pull has shown, or may show, to anybody. No text of an error
// may repeat it, whoever wrote it. It is safe for concurrent use.
type secrets struct {
	mu   sync.Mutex
	list []string // the longest first: one may be part of another
}

// add puts words on the list.
func (s *secrets) add(words ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, word := range words {
		for _, form := range []string{word, url.QueryEscape(word)} {
			if len(form) >= minSecret && !slices.Contains(s.list, form) {
				s.list = append(s.list, form)
			}
		}
	}
	slices.SortStableFunc(s.list, func(a, b string) int { return len(b) - len(a) })
}

// addHeader puts the values of an HTTP header on the list that may be secrets: a word after a
// scheme, as in "Bearer TOKEN", for itself, too.
func (s *secrets) addHeader(values []string) {
	for _, value := range values {
		_, token, _ := strings.Cut(value, " ")
		s.add(value, token)
	}
}

// redact takes the secrets out of text.
func (s *secrets) redact(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, word := range s.list {
		text = strings.ReplaceAll(text, word, "[redacted]")
	}
	return text
}
