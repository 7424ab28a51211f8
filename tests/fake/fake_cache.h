/* A cache without cache: cache.h over a small table, under the test's control. Linked instead of the real one
 * into the tests of daemon/rpc, so that what a session does while operations run can be looked at. */
#ifndef KVC_TEST_FAKE_CACHE_H
#define KVC_TEST_FAKE_CACHE_H

#include <stdbool.h>

#include "daemon/cache/cache.h"

enum kvc_fake_mode {
	KVC_FAKE_AT_ONCE, /* operations end in the turn that submits them */
	KVC_FAKE_HOLD,    /* they wait for kvc_fake_release, or end when cancelled */
	KVC_FAKE_STUCK,   /* they wait for kvc_fake_release, also when cancelled */
};

struct kvc_cache *kvc_fake_cache_open(struct kvc_loop *loop);

/* Everything that was opened at it must be closed. */
void kvc_fake_cache_close(struct kvc_cache *cache);

void kvc_fake_mode_set(struct kvc_cache *cache, enum kvc_fake_mode mode);

/* End up to `count` of the operations that wait, the oldest first. */
void kvc_fake_release(struct kvc_cache *cache, unsigned count);

/* Operations that wait; the oldest, and its view. */
unsigned kvc_fake_waiting(const struct kvc_cache *cache);
const struct kvc_op *kvc_fake_oldest(const struct kvc_cache *cache);
const struct kvc_block_view *kvc_fake_oldest_view(const struct kvc_cache *cache);

/* Gets and puts of tenants that begin from now on are above their rate; that is 1000 bytes a second, for 7
 * ms. */
void kvc_fake_quota(struct kvc_cache *cache, bool above);

/* Requests may hold so many blocks, of all tenants together; and how many they do. */
void kvc_fake_held_max(struct kvc_cache *cache, unsigned blocks);
unsigned kvc_fake_held(const struct kvc_cache *cache);

/* Namespaces and leases that are open, blocks that are stored. */
unsigned kvc_fake_open_objects(const struct kvc_cache *cache);
unsigned kvc_fake_blocks(const struct kvc_cache *cache);

/* Keys that were to be read ahead so far. */
unsigned kvc_fake_read_ahead(const struct kvc_cache *cache);

#endif
