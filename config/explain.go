package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// explain says what is wrong with a file, data, by line and key, in the words of
// the file and not of this program.
func explain(err error, data []byte) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for i := range unknown.Errors {
			e := &unknown.Errors[i]
			line, _ := e.Position()
			errs = append(errs, fmt.Errorf("line %d: %w %q: %s", line, ErrUnknownKey, strings.Join(e.Key(), "."), suggest(e.Key())))
		}
		return oneLine(errs)
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := e.Position()
		text := strings.TrimPrefix(e.Error(), "toml: ")
		if anything := map[string]any{}; toml.Unmarshal(data, &anything) == nil { // it is TOML, with another type than ours
			text = wanted(e.Key())
		}
		if key := strings.Join(e.Key(), "."); key != "" {
			return fmt.Errorf("line %d, column %d: %s: %s", line, column, key, text)
		}
		return fmt.Errorf("line %d, column %d: %s", line, column, text)
	}
	return err
}

// wanted says what the value of a key must be.
func wanted(key []string) string {
	t := reflect.TypeFor[Config]()
	for i, word := range key {
		switch t.Kind() {
		case reflect.Struct:
			f, ok := field(t, word)
			if !ok {
				return "another kind of value is wanted: see berth config default"
			}
			t = f.Type
		case reflect.Map:
			t = t.Elem()
			if _, ok := field(t, word); ok && i == len(key)-1 {
				return fmt.Sprintf("it belongs below a table [%s.NAME]", strings.Join(key[:i], "."))
			}
		}
	}
	switch t.Kind() {
	case reflect.Struct:
		return fmt.Sprintf("a table is wanted: [%s]", strings.Join(key, "."))
	case reflect.Map:
		return fmt.Sprintf("tables are wanted: [%s.NAME]", strings.Join(key, "."))
	case reflect.Slice:
		return `a list of strings is wanted: ["…", "…"]`
	case reflect.Bool:
		return "true or false is wanted"
	case reflect.Int:
		return "a whole number is wanted"
	}
	return `a string is wanted, in quotes: "…"`
}

// field finds the field of a key.
func field(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("toml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// suggest names the known key that is nearest to one that is not known, by edit
// distance: of the whole, or of the last word, for a key in the wrong table. Where
// none is near it says where they all are.
func suggest(unknown []string) string {
	key, last := strings.Join(unknown, "."), unknown[len(unknown)-1]
	best, bestAt := "", len(key)/2+1
	for _, known := range keys(reflect.TypeFor[Config](), "") {
		if table, _, named := strings.Cut(known, ".NAME"); named && len(unknown) > 1 && distance(unknown[0], table) <= len(table)/2 {
			known = strings.Replace(known, "NAME", unknown[1], 1) // the user's own
		}
		if strings.HasPrefix(key, known+".") {
			continue // the table, which is right
		}
		at := distance(key, known)
		if word := distance(last, lastWord(known)); word <= len(last)/4 {
			at = min(at, word+1)
		}
		if at < bestAt {
			best, bestAt = known, at
		}
	}
	if best == "" {
		return "berth config default prints those that there are"
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// keys lists the keys of settings of type t, in the order of the file; a name
// that is the user's is NAME.
func keys(t reflect.Type, prefix string) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := prefix + f.Tag.Get("toml")
		all = append(all, key)
		switch f.Type.Kind() {
		case reflect.Struct:
			all = append(all, keys(f.Type, key+".")...)
		case reflect.Map:
			all = append(all, key+".NAME")
			all = append(all, keys(f.Type.Elem(), key+".NAME.")...)
		}
	}
	return all
}

func lastWord(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is the Levenshtein distance of a and b, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
