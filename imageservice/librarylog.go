package imageservice

import (
	"io"
	"strings"

	"k8s.io/klog/v2"
)

// LibraryLog writes to logger what libraries write to the standard logger; it is for log.SetOutput.
// One of them is net/http, which quotes what a server sends unasked, and that may be a secret the server
// was shown. What is in quotes is left out.
func LibraryLog(logger klog.Logger) io.Writer { return libraryLog{logger} }

type libraryLog struct{ logger klog.Logger }

// Write implements io.Writer. A call is a line.
func (l libraryLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if from, to := strings.IndexByte(text, '"'), strings.LastIndexByte(text, '"'); from >= 0 {
		text = text[:from] + "…" + text[to+1:]
	}
	l.logger.Info("A library says", "text", text)
	return len(line), nil
}
