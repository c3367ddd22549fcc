// The tick program prints a line with the next number at every interval, given
// as its argument (10ms), so that a lost or doubled log line shows. Upon SIGUSR1
// it exits with code 7, upon SIGTERM with 0.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	every := 10 * time.Millisecond
	if len(os.Args) > 1 {
		d, err := time.ParseDuration(os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		every = d
	}
	end := exitCode()
	tick := time.NewTicker(every)
	for n := 1; ; n++ {
		fmt.Println(n)
		select {
		case code := <-end:
			os.Exit(code)
		case <-tick.C:
		}
	}
}
