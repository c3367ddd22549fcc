// Package crashpoint marks the places where test/crash kills the process: before and
// after whatever a crash could leave half done.
//
// In what is shipped its functions are empty and nothing is left of a call. With the build
// tag "crashpoints" a process reads what it is to do from a file named "crashpoints" beside
// its program, when it passes the first point: write down the points that it passes, and
// send itself SIGKILL at one of them, or hang there.
//
// Arguments are to be at hand: what is computed for a call alone would be computed in what
// is shipped too.
package crashpoint
