// The chatter program says numbered lines, of which each is one write, on stdout and some on
// stderr: as many as its first argument says, as many per second as its second. It begins
// when there is the file that its third names, waits for nobody but who does not read, and
// then catches up.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/berthd/berth/test/images/chatter/line"
)

// pause is between two handfuls of lines.
const pause = 50 * time.Millisecond

func main() {
	if err := chat(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func chat() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: %s LINES RATE FILE", os.Args[0])
	}
	lines, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	for _, err := os.Stat(os.Args[3]); err != nil; _, err = os.Stat(os.Args[3]) {
		time.Sleep(pause)
	}
	begun := time.Now()
	var buf []byte
	for n := 0; n < lines; {
		due := min(lines, int(time.Since(begun).Seconds()*float64(rate)))
		for ; n < due; n++ {
			buf = append(line.Append(buf[:0], n), '\n')
			out := os.Stdout
			if line.OnStderr(n) {
				out = os.Stderr
			}
			if _, err := out.Write(buf); err != nil {
				return err
			}
		}
		time.Sleep(pause)
	}
	return nil
}
