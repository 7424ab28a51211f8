/* A list of entries in RAM from cold to hot, linked through the entries themselves. */
#ifndef KVC_RECENCY_H
#define KVC_RECENCY_H

#include <stdint.h>

#include "daemon/cache/index.h"

struct kvc_recency {
	uint32_t coldest;
	uint32_t hottest;
	uint32_t count;
	uint64_t bytes; /* of slabs */
};

void kvc_recency_init(struct kvc_recency *list);

/* Insert an entry that is in no list, with its slab's bytes: as the hottest, as the coldest, or just colder
 * than `anchor`, which is in this list. */
void kvc_recency_push_hot(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes);
void kvc_recency_push_cold(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes);
void kvc_recency_push_after(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes,
                            uint32_t anchor);

void kvc_recency_remove(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes);

#endif
