// Go's runtime has handlers for nearly all signals, and ends the process by some of them
// unless the program asks for them. Asking takes two switches between threads for each, and
// there is nothing to be told: without a handler the kernel drops them, for a PID 1.

#define _GNU_SOURCE
#include "signals.h"

#include <signal.h>
#include <stddef.h>

// Those of a fault in the program itself (SIGSEGV, SIGBUS, SIGFPE) stay Go's: see dropSignals.
static const int deadly[] = { SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGSTKFLT, SIGTERM, SIGSYS };

void berth_drop_signals(void) {
	for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
		signal(deadly[i], SIG_DFL);
}
