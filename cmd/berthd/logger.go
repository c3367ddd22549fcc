package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/imageservice"
)

// newLogger is klog as the settings want it. The standard logger, which is for libraries, writes to it.
func newLogger(l config.Log) (logger klog.Logger, err error) {
	defer func() {
		log.SetFlags(0)
		log.SetOutput(imageservice.LibraryLog(logger))
		logrus.SetOutput(io.Discard)
		logrus.AddHook(ttrpcLog{logger})
	}()
	if l.Format == "json" {
		// klog's verbosity n is slog's level -n.
		logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.Level(-l.Verbosity)}))
		klog.SetSlogLogger(logger)
		return klog.Background(), nil
	}
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", fmt.Sprint(l.Verbosity)); err != nil {
		return klog.Logger{}, fmt.Errorf("log.verbosity: %w", err)
	}
	return klog.Background(), nil
}

// ttrpcLog takes what ttrpc logs. It says nothing that the callers do not get as an error, but for the
// answer to a call that nobody waits for any more.
type ttrpcLog struct{ logger klog.Logger }

// Levels implements logrus.Hook.
func (ttrpcLog) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (t ttrpcLog) Fire(e *logrus.Entry) error {
	t.logger.V(1).Info("ttrpc says", "text", e.Message, "fields", e.Data)
	return nil
}
