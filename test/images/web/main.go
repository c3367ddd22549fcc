// The web program is the smallest server that answers as nginx or httpd would
// where critest looks: it serves a page on the port given as its argument. Under
// the name nginx it calls itself "nginx: master process" and writes
// /var/run/nginx.pid; under any name it logs its own name and each request.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const title = "nginx: master process "

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: web PORT")
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return err
	}
	name := filepath.Base(args[0])
	switch {
	case strings.HasPrefix(args[0], title):
		name = "nginx"
		if err := os.WriteFile("/var/run/nginx.pid", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return err
		}
	case name == "nginx":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return become(self, append([]string{title + args[0]}, args[1:]...))
	}
	fmt.Fprintf(os.Stderr, "%s: serving on port %d\n", name, port)
	page := "<html><body><h1>Welcome to " + name + "!</h1></body></html>\n"
	return http.ListenAndServe(fmt.Sprintf(":%d", port), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s: %s %s %s\n", name, r.RemoteAddr, r.Method, r.URL.Path)
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, page)
	}))
}
