/* Blocks whose every byte follows from a number: what a client puts, and what it must get back.
 *
 * A space is a namespace and a seed. Block `id` of a space has a key, a token count, and source elements from
 * a pseudo-random generator: mostly like a model's cache (an offset for each channel plus noise), some with
 * constant, zero, tiny, huge, infinite or NaN elements. What must come back is what the scalar codec
 * restores; so any process can tell a wrong byte without having seen the put. Thread-safe; allocates only in
 * init. */
#ifndef KVC_TEST_SAMPLE_H
#define KVC_TEST_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/kvcellar.h"
#include "kernels/image.h"

#define KVC_SAMPLE_KEY_BYTES 20u

struct kvc_sample_space {
	struct kvc_namespace_options options;
	struct kvc_block_codec codec;
	uint64_t seed;
	const struct kvc_codec *restorer; /* init: the scalar one, the reference */
};

/* Take the options (strings are borrowed) and resolve their preset. KVC_INVALID: no such preset.
 * KVC_UNSUPPORTED: layers that differ. */
kvc_status kvc_sample_space_init(struct kvc_sample_space *space, const struct kvc_namespace_options *options,
                                 uint64_t seed);

/* The next number of a generator. */
uint64_t kvc_sample_random(uint64_t *state);

/* The same in every space. */
void kvc_sample_key(uint64_t id, uint8_t key[KVC_SAMPLE_KEY_BYTES]);

/* Full for most ids, fewer for some. */
uint32_t kvc_sample_tokens(const struct kvc_sample_space *space, uint64_t id);

/* Bytes of the block's K elements, and of K and V together: contiguous, V behind K. */
size_t kvc_sample_key_bytes(const struct kvc_sample_space *space, uint64_t id);
size_t kvc_sample_bytes(const struct kvc_sample_space *space, uint64_t id);

/* Bytes of a full block: the bound of the above. */
size_t kvc_sample_bytes_max(const struct kvc_sample_space *space);

/* Write the source elements. */
void kvc_sample_source(const struct kvc_sample_space *space, uint64_t id, void *out);

/* The elements of a source as the codec restores them: kvc_sample_bytes() of them, `source` and `out` may be
 * the same. False if there is no memory. */
bool kvc_sample_restore(const struct kvc_sample_space *space, uint64_t id, const void *source, void *out);

/* Checksum of what must come back for the block; false if there is no memory. */
bool kvc_sample_sum(const struct kvc_sample_space *space, uint64_t id, uint64_t *sum);
uint64_t kvc_sample_sum_of(const void *data, size_t bytes);

/* Fill in a block for kvc_put or kvc_get; `key` holds the key and is borrowed by it. Its elements lie at
 * `offset` of the memory. */
void kvc_sample_block(const struct kvc_sample_space *space, uint64_t id, uint64_t offset,
                      uint8_t key[KVC_SAMPLE_KEY_BYTES], struct kvc_block *block);

#endif
