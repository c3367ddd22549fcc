package sandbox

import (
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criSignals are the kernel's numbers of the CRI's signals 1 to 34, which the
// API lists by the alphabet. They are mapped by number: cri-api 0.37 renamed
// the values.
var criSignals = [...]int{0,
	6, 14, 7, 17, 17, 18, 8, 1, 4, 2, 29, 6, 9, 13, 29, 27, 30, // ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR
	3, 11, 16, 19, 31, 15, 5, 20, 21, 22, 23, 10, 12, 26, 28, 24, 25, // QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ
}

// The range of real-time signals, as glibc and musl hand them out.
const rtmin, rtmax = 34, 64

// signalOfCRI maps a signal of the CRI to the kernel's; ok is false for the
// runtime's default.
func signalOfCRI(s runtimeapi.Signal) (n int, ok bool) {
	switch n := int(s); {
	case n <= 0 || n > rtmax+1:
		return 0, false
	case n < len(criSignals):
		return criSignals[n], true
	default: // SIGRTMIN is 35, and so on to SIGRTMAX, 65
		return n - 1, true
	}
}

// CRISignal maps a signal of the kernel to the CRI's, or to the runtime's
// default when the CRI has none for it.
func CRISignal(n int) runtimeapi.Signal {
	for s := range runtimeapi.Signal(rtmax + 2) {
		if got, ok := signalOfCRI(s); ok && got == n {
			return s
		}
	}
	return 0
}

// signalNumber turns a name as images write it ("SIGTERM", "TERM", "15",
// "SIGRTMIN+3") into a number; ok is false for what is no signal.
func signalNumber(name string) (n int, ok bool) {
	name = strings.ToUpper(strings.TrimSpace(name))
	if n, err := strconv.Atoi(name); err == nil {
		return n, n > 0 && n <= rtmax
	}
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	for prefix, base := range map[string]int{"SIGRTMIN": rtmin, "SIGRTMAX": rtmax} {
		rest, found := strings.CutPrefix(name, prefix)
		if !found {
			continue
		}
		if rest == "" {
			return base, true
		}
		off, err := strconv.Atoi(rest)
		return base + off, err == nil && base+off >= rtmin && base+off <= rtmax
	}
	return signalNamed(name)
}
