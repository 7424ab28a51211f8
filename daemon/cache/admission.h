/* What may be written to disk, under the budget of daemon/policy/admit.h.
 *
 * A block is decided on when it arrives, behind its parent: refused, it is loose (in RAM only). Used again,
 * or put again after it was refused and evicted, it has another chance. A put that asks for the disk is
 * written and charged without being asked, and so is what the tier writes again. Without a budget all are
 * admitted, and only counted. */
#ifndef KVC_CACHE_ADMISSION_H
#define KVC_CACHE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kvc_status.h"

struct kvc_cache;
struct kvc_op;
struct kvc_tier_note;

/* Nothing is opened, and all functions do nothing, if there is no disk. */
kvc_status kvc_admission_open(struct kvc_cache *cache);
void kvc_admission_close(struct kvc_cache *cache);

/* The new entry of a put; `parent` may be KVC_ENTRY_NONE. */
void kvc_admission_arrive(struct kvc_cache *cache, const struct kvc_op *op, uint32_t id, uint32_t parent);

/* The image of the put turned out to have so many bytes; the entry says yet what was charged for. */
void kvc_admission_sized(struct kvc_cache *cache, uint32_t id, uint64_t image_bytes);

/* The entry is used. Told in the order of the chain. */
void kvc_admission_use(struct kvc_cache *cache, uint32_t id);

/* Whether an entry whose place on disk was reclaimed may be written again; or one that was not to be written,
 * and now is. */
bool kvc_admission_again(struct kvc_cache *cache, uint32_t id);

/* A store of the entry has ended. */
void kvc_admission_stored(struct kvc_cache *cache, uint32_t id, kvc_status status);

/* The tier wrote the entry again on its own: that is charged. */
void kvc_admission_copied(struct kvc_cache *cache, uint32_t id);

/* The account, for the tier to keep over a restart, and back. */
void kvc_admission_save(struct kvc_cache *cache, struct kvc_tier_note *note);
void kvc_admission_restore(struct kvc_cache *cache, const struct kvc_tier_note *note);

/* The entry will not be written: it is dropped, or lost by eviction. */
void kvc_admission_dropped(struct kvc_cache *cache, uint32_t id);
void kvc_admission_evicted(struct kvc_cache *cache, uint32_t id);

#endif
