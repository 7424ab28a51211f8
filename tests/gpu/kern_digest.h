/* The digests of docs/codec.md, from the GPU. */
#ifndef KVC_TESTS_GPU_KERN_DIGEST_H
#define KVC_TESTS_GPU_KERN_DIGEST_H

#include <stdint.h>

/* Restore the files with each of the parameter sets; the number of sets for which GPU and CPU differ or, of
 * the whole files, the digest is not as documented. */
uint32_t digests_differ(const char *keys_path, const char *values_path);

#endif
