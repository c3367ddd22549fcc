package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// ErrUnknownKey says that the file has a key that berth does not. The text names
// it and the nearest one that berth has: a misspelt setting is not a silent one.
var ErrUnknownKey = errors.New("unknown key")

// sizeLimit is the largest file that is read, in bytes.
const sizeLimit = 1 << 20

// Load reads the file at path over the defaults. With "" it reads DefaultPath,
// and is content when that is absent; a file that was asked for must be there.
// The error is one line.
func Load(path string) (Config, error) {
	asked := path != ""
	if !asked {
		path = DefaultPath
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && !asked {
		return Read(bytes.NewReader(nil))
	}
	if err != nil {
		return Config{}, fmt.Errorf("settings: %w", err)
	}
	defer f.Close()
	c, err := Read(f)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Read lays the settings in r over Default, fills in what depends on others, and
// validates. The error is one line.
func Read(r io.Reader) (Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, sizeLimit+1))
	if err != nil {
		return Config{}, err
	}
	if len(data) > sizeLimit {
		return Config{}, fmt.Errorf("larger than %d bytes", sizeLimit)
	}
	c := Default()
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&c); err != nil {
		return Config{}, explain(err)
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.State, "berth.sock")
	}
	return c, c.Validate()
}

// explain says what is wrong with a file by line and key.
func explain(err error) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for i := range unknown.Errors {
			e := &unknown.Errors[i]
			line, _ := e.Position()
			key := strings.Join(e.Key(), ".")
			errs = append(errs, fmt.Errorf("line %d: %w %q: did you mean %q?", line, ErrUnknownKey, key, nearest(key)))
		}
		return oneLine(errs)
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := e.Position()
		text := strings.TrimPrefix(e.Error(), "toml: ")
		if key := strings.Join(e.Key(), "."); key != "" {
			return fmt.Errorf("line %d, column %d: %s: %s", line, column, key, text)
		}
		return fmt.Errorf("line %d, column %d: %s", line, column, text)
	}
	return err
}

// nearest returns the known key with the smallest edit distance to key: of the
// whole, or of the last word, for a key in the wrong table.
func nearest(key string) string {
	best, bestAt := "", -1
	for _, known := range keys(reflect.TypeFor[Config](), "") {
		at := min(distance(key, known), distance(lastWord(key), lastWord(known))+1)
		if bestAt < 0 || at < bestAt {
			best, bestAt = known, at
		}
	}
	return best
}

// keys lists the keys of settings of type t, in the order of the file; a name
// that is the user's is NAME.
func keys(t reflect.Type, prefix string) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := prefix + f.Tag.Get("toml")
		switch {
		case f.Type.Kind() == reflect.Struct:
			all = append(all, key)
			all = append(all, keys(f.Type, key+".")...)
		case f.Type.Kind() == reflect.Map:
			all = append(all, key)
			all = append(all, keys(f.Type.Elem(), key+".NAME.")...)
		default:
			all = append(all, key)
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
