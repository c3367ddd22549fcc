#define BERTH_FILTER_FD 3
#define BERTH_FILTER_MAGIC "BERTHBPF"
#define BERTH_FILTER_MAGIC_LEN 8

void berth_filter_compile_to(int fd);
