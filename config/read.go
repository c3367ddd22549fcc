package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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
		return Config{}, explain(err, data)
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.State, "berth.sock")
	}
	return c, c.Validate()
}
