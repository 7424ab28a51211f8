/* What /proc tells of a process. */
#ifndef KVC_TEST_PROC_H
#define KVC_TEST_PROC_H

#include <stdbool.h>
#include <stdint.h>

/* Entries of a folder whose name does not begin with a dot and that count; NULL: all do. */
unsigned kvc_proc_entries(const char *folder, bool (*counts)(const char *folder, const char *name));

/* For a folder of threads: the kernel's own (io_uring) come and go as it likes, and do not count. */
bool kvc_proc_thread_counts(const char *folder, const char *name);

/* Bytes that are mapped shared, by a file maps. */
uint64_t kvc_proc_shared_bytes(const char *maps);

#endif
