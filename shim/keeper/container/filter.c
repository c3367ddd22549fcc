// The link wraps functions of libseccomp (--wrap in filter.go), so that a
// seccomp filter which was compiled before is not compiled again in the first
// steps of each container and each command: that costs more CPU than all the rest
// of a start.
//
// A process that is given a compiled filter, as a sealed memfd on descriptor 3,
// hands it out where libseccomp would compile one, and closes the descriptor. One
// that is told to compile writes what libseccomp made and exits. Any other process
// runs libseccomp as it is.

#define _GNU_SOURCE
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);
int __real_seccomp_load(const scmp_filter_ctx ctx);
int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args);
int __real_seccomp_rule_add_exact_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args);

enum { unknown, absent, present, used };
static int state = unknown;
static int compile_to = -1;

void berth_filter_compile_to(int fd) { compile_to = fd; }

// given tells whether descriptor 3 is a compiled filter: nobody but the keeper can
// have made a memfd that begins so and can never change.
static int given(void) {
	if (state == unknown) {
		char magic[BERTH_FILTER_MAGIC_LEN];
		const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
		int got = fcntl(BERTH_FILTER_FD, F_GET_SEALS);
		state = absent;
		if (got != -1 && (got & seals) == seals &&
		    pread(BERTH_FILTER_FD, magic, sizeof magic, 0) == sizeof magic &&
		    memcmp(magic, BERTH_FILTER_MAGIC, sizeof magic) == 0)
			state = present;
	}
	return state == present;
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args) {
	if (given())
		return 0;
	return __real_seccomp_rule_add_array(ctx, action, syscall, n, args);
}

int __wrap_seccomp_rule_add_exact_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args) {
	if (given())
		return 0;
	return __real_seccomp_rule_add_exact_array(ctx, action, syscall, n, args);
}

// The other ways to have a filter from ctx are closed: with a compiled filter given
// it has no rules, and confines nothing.
int __wrap_seccomp_load(const scmp_filter_ctx ctx) {
	if (given() || state == used)
		return -EINVAL;
	return __real_seccomp_load(ctx);
}

#if SCMP_VER_MAJOR > 2 || (SCMP_VER_MAJOR == 2 && SCMP_VER_MINOR >= 6)
int __real_seccomp_export_bpf_mem(const scmp_filter_ctx ctx, void *buf, size_t *len);

int __wrap_seccomp_export_bpf_mem(const scmp_filter_ctx ctx, void *buf, size_t *len) {
	if (given() || state == used)
		return -EINVAL;
	return __real_seccomp_export_bpf_mem(ctx, buf, len);
}
#endif

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd) {
	if (state == used)
		return -EINVAL; // ctx has no rules: better no process than one without a filter
	if (given()) {
		struct stat st;
		off_t at = BERTH_FILTER_MAGIC_LEN;
		if (fstat(BERTH_FILTER_FD, &st) != 0)
			return -errno;
		while (at < st.st_size) {
			ssize_t n = sendfile(fd, BERTH_FILTER_FD, &at, st.st_size - at);
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
		}
		close(BERTH_FILTER_FD); // not the container's
		state = used;
		return 0;
	}
	int rc = __real_seccomp_export_bpf(ctx, fd);
	if (rc == 0 && compile_to >= 0)
		_exit(__real_seccomp_export_bpf(ctx, compile_to) == 0 ? 0 : 1);
	return rc;
}
