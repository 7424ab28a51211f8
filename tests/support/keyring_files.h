/* What stands in a disk tier's directory, for tests of its keyring: files as bytes, data keys as they are
 * wrapped, and keyrings that cannot be written. */
#ifndef KVC_TEST_KEYRING_FILES_H
#define KVC_TEST_KEYRING_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/io/io.h"
#include "daemon/tier/keyring.h"

#define RIG_PATH_BYTES 512

/* The path of an open file; empty: it is not known. */
void rig_fd_path(int fd, char path[RIG_PATH_BYTES]);

/* All of a file; the caller frees it. */
uint8_t *rig_file_get(const char *directory, const char *name, size_t *bytes);

/* Write over the beginning of a file that is there. */
void rig_file_put(const char *directory, const char *name, const uint8_t *bytes, size_t length);

/* In how many files of a directory the bytes stand. */
uint32_t rig_found_in(const char *directory, const void *needle, size_t needle_bytes);

/* The wrapped data key of a tenant, which has one, in the newer keyring of a directory. */
void rig_wrapped_get(const char *directory, const uint8_t tenant[16], uint8_t wrapped[KVC_WRAPPED_BYTES]);

/* From now on each request of that kind to a keyring fails, but for the first `skip`; and how many did. */
void rig_keyring_fault(enum kvc_io_op op, uint32_t skip, int error);
uint32_t rig_keyring_faults(void);

#endif
