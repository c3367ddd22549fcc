// The pause program does nothing until it is told to stop. As process 1 of a
// namespace it also takes away the zombies that others leave.
package main

import "os"

func main() {
	reapChildren()
	<-stopped()
	os.Exit(0)
}
