/* How much memory this process may have, as the kernel tells it. */
#ifndef KVC_MEMORY_LIMIT_H
#define KVC_MEMORY_LIMIT_H

#include <stdint.h>

/* Bytes that the machine can give without swapping (MemAvailable), UINT64_MAX if unknown. */
uint64_t kvc_memory_available(void);

/* The lowest memory.max of the process's control group (v2) and the groups above it, UINT64_MAX if none. */
uint64_t kvc_memory_cgroup_max(void);

#endif
