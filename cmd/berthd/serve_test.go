package main

import (
	"log"
	"os"
	"reflect"
	"testing"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/imageservice"
)

// TestLibrariesLog: what libraries log goes through the writer that takes out what they quote.
func TestLibrariesLog(t *testing.T) {
	t.Cleanup(klog.CaptureState().Restore)
	flags := log.Flags()
	t.Cleanup(func() {
		log.SetFlags(flags)
		log.SetOutput(os.Stderr)
	})
	want := reflect.TypeOf(imageservice.LibraryLog(klog.Background()))
	for _, format := range []string{"text", "json"} {
		log.SetOutput(os.Stderr)
		if _, err := newLogger(config.Log{Format: format}); err != nil {
			t.Fatal(err)
		}
		if got := reflect.TypeOf(log.Writer()); got != want {
			t.Errorf("%s: %v", format, got)
		}
	}
}
