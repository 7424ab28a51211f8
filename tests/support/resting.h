/* A cache whose blocks all rest on disk, without a disk: the daemon's own cache, recovered from a tier that
 * keeps of every record what the disk tier keeps (its segments, sealed) and reports it as that one does.
 * Records have 16 pages, segments 256 MiB. Block i has a key of 20 bytes (kvc_resting_key); all are of one
 * namespace. They can be looked up, dropped and forgotten, not read. */
#ifndef KVC_TEST_RESTING_H
#define KVC_TEST_RESTING_H

#include <stdint.h>

#include "daemon/cache/cache.h"

#define KVC_RESTING_KEY_BYTES 20u

struct kvc_resting;

/* KVC_NO_MEMORY: the program ends, nothing is taken back. */
kvc_status kvc_resting_open(uint32_t blocks, struct kvc_resting **resting);
void kvc_resting_close(struct kvc_resting *resting);

struct kvc_cache *kvc_resting_cache(struct kvc_resting *resting);
const struct kvc_ns *kvc_resting_ns(const struct kvc_resting *resting);
void kvc_resting_key(uint64_t block, uint8_t key[KVC_RESTING_KEY_BYTES]);

/* Bytes that the index counts (cache.index_bytes), and that the tier has taken for its segments and records.
 */
uint64_t kvc_resting_index_bytes(const struct kvc_resting *resting);
uint64_t kvc_resting_tier_bytes(const struct kvc_resting *resting);

#endif
