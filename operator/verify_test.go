package operator

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/operator/api"
)

func (b *bench) verify(t *testing.T, images ...string) map[string]*api.VerifyResponse {
	t.Helper()
	stream, err := b.Verify(t.Context(), &api.VerifyRequest{Images: images})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*api.VerifyResponse{}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[resp.Image.Id] = resp
	}
}

// spoil flips a byte in the middle of the largest file below dir.
func spoil(t *testing.T, dir string) {
	t.Helper()
	var file string
	var size int64
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err == nil && info.Size() > size {
			file, size = path, info.Size()
		}
		return nil
	})
	if err != nil || file == "" {
		t.Fatal(dir, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestVerify: what is on disk is told from what was, and a pull mends it.
func TestVerify(t *testing.T) {
	b := openBench(t, "erofs")
	big := strings.Repeat("contents ", 100_000)
	names := []string{b.add("one", big), b.add("two", "b", "c"), b.add("three", "b", "d")}
	var ids []string
	for _, name := range names {
		ids = append(ids, b.mustPull(t, name).Id)
	}
	for id, v := range b.verify(t) {
		if v.Verdict != api.Verdict_SOUND || v.Findings != nil || v.Layers == 0 {
			t.Errorf("%s: %v", id, v)
		}
	}
	spoil(t, filepath.Join(b.root, "snapshots"))
	spoil(t, filepath.Join(b.root, "images", "configs", "sha256", digest.Digest(ids[1]).Encoded()))
	got := b.verify(t)
	for i, want := range []api.Verdict{api.Verdict_DAMAGED, api.Verdict_DAMAGED, api.Verdict_SOUND} {
		if v := got[ids[i]]; v.GetVerdict() != want || (len(v.GetFindings()) > 0) != (want == api.Verdict_DAMAGED) {
			t.Errorf("%s: %v", names[i], v)
		}
	}
	if v := b.verify(t, names[0]); len(v) != 1 || v[ids[0]].GetVerdict() != api.Verdict_DAMAGED {
		t.Errorf("%v", v)
	}
	for i := range names {
		if img := b.mustPull(t, names[i]); img.Id != ids[i] {
			t.Errorf("%s is %s", names[i], img.Id)
		}
	}
	for id, v := range b.verify(t) {
		if v.Verdict != api.Verdict_SOUND {
			t.Errorf("%s after a pull: %v", id, v)
		}
	}
	if stream, err := b.Verify(t.Context(), &api.VerifyRequest{Images: []string{"nothing:1"}}); err == nil {
		if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%v", err)
		}
	}
}

// TestVerifyFolders: what cannot be told is not called sound.
func TestVerifyFolders(t *testing.T) {
	b := newBench(t)
	id := b.mustPull(t, b.add("one", "a")).Id
	if v := b.verify(t)[id]; v.GetVerdict() != api.Verdict_UNVERIFIABLE || len(v.GetFindings()) != 1 {
		t.Errorf("%v", v)
	}
}
