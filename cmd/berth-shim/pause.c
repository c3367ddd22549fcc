//go:build cgo && linux

// The holder of a shared PID namespace. It runs before the Go runtime does, so
// that it costs a stack and a few pages: its image is this binary under the name
// "pause", with nothing else beside it.

#include <signal.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_stop(int sig) {
	(void)sig;
	_exit(0);
}

static void on_child(int sig) {
	(void)sig;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

void berth_pause(void) {
	struct sigaction stop = {.sa_handler = on_stop};
	struct sigaction child = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP | SA_RESTART};

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGCHLD, &child, NULL);
	for (;;) {
		pause();
	}
}

__attribute__((constructor(101))) static void pause_if_called_so(int argc, char **argv) {
	const char *name;

	if (argc < 1 || argv == NULL || argv[0] == NULL) {
		return;
	}
	name = strrchr(argv[0], '/');
	name = name ? name + 1 : argv[0];
	if (strcmp(name, "pause") == 0) {
		berth_pause();
	}
}
