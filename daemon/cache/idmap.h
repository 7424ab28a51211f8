/* A small map from ids to numbers: open addressing, at most half full, so that few ids of many can carry
 * something without a field in every entry. */
#ifndef KVC_IDMAP_H
#define KVC_IDMAP_H

#include <stdint.h>

#include "proto/kvc_status.h"

#define KVC_IDMAP_NONE 0xFFFFFFFFu

/* Zero-initialised: empty. */
struct kvc_idmap {
	uint32_t count;
	uint32_t slot_count; /* a power of two, or 0 */
	struct kvc_idmap_slot *slots;
};

void kvc_idmap_close(struct kvc_idmap *map);

/* Bytes of memory that it has taken. */
uint64_t kvc_idmap_bytes(const struct kvc_idmap *map);

/* The id's number, or KVC_IDMAP_NONE. */
uint32_t kvc_idmap_get(const struct kvc_idmap *map, uint32_t id);

/* Make room for that many ids in all. KVC_NO_MEMORY: nothing was done. */
kvc_status kvc_idmap_reserve(struct kvc_idmap *map, uint32_t count);

/* Add an id that is not there; room was reserved. `number` is not KVC_IDMAP_NONE. */
void kvc_idmap_add(struct kvc_idmap *map, uint32_t id, uint32_t number);

/* Remove an id that is there. */
void kvc_idmap_remove(struct kvc_idmap *map, uint32_t id);

/* Some id that is in the map, or KVC_IDMAP_NONE. Starting the search at *slot, which is moved on. */
uint32_t kvc_idmap_next(const struct kvc_idmap *map, uint32_t *slot);

#endif
