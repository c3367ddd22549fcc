// The nonewprivs program says who it is. Its file is set-user-ID root in the
// image, so the answer tells whether no_new_privs was in force.
package main

import (
	"fmt"
	"os"
)

func main() { fmt.Printf("Effective uid: %d\n", os.Geteuid()) }
