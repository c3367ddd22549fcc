// Package stats asks a running daemon what pods and containers use, over the CRI, on
// the real kernel.
package stats
