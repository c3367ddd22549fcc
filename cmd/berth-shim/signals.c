//go:build cgo && linux

// A shim hands its signals' dispositions and its mask of blocked signals on to
// containers, and gets them from whatever started the daemon: a terminal that
// ignores SIGHUP, say, or a make that leaves one of glibc's own signals ignored.
// Containers begin with the defaults and nothing blocked, so the shim does, before
// the Go runtime looks at them.

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// What rt_sigaction(2) takes. glibc's sigaction refuses the signals it keeps to
// itself, 32 and 33.
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};

__attribute__((constructor(102))) static void default_signals(int argc, char **argv) {
	if (argc < 2 || strcmp(argv[1], "serve") != 0)
		return;
	unsigned long none = 0; // glibc's sigprocmask leaves its own signals as they are
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
	for (int sig = 1; sig <= 64; sig++) {
		struct kernel_sigaction now, usual = {.handler = SIG_DFL};
		if (syscall(SYS_rt_sigaction, sig, NULL, &now, sizeof now.mask) == 0 && now.handler == SIG_IGN)
			syscall(SYS_rt_sigaction, sig, &usual, NULL, sizeof usual.mask);
	}
}
