// Package arch holds the rules of the code base as tests: who may import whom,
// where the kernel is talked to, what every package and every error owes. Its
// tests read source files only and may be run anywhere.
package arch
