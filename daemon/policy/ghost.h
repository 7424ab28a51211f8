/* Ghosts: blocks that went and are remembered by the hash of their key, in two lists from old to new. The
 * number is bounded; without memory for one more it is not remembered, which costs hits and nothing else. */
#ifndef KVC_GHOST_H
#define KVC_GHOST_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kvc_status.h"

enum { KVC_GHOST_LISTS = 2 };

struct kvc_ghosts;

kvc_status kvc_ghosts_open(uint32_t max, struct kvc_ghosts **ghosts);
void kvc_ghosts_close(struct kvc_ghosts *ghosts);

/* Remember. One with that hash is replaced; above the bound the oldest of the longer list goes. */
void kvc_ghosts_add(struct kvc_ghosts *ghosts, unsigned list, uint64_t hash, uint64_t bytes);

/* Forget the ghost with that hash: its list, or -1 if there is none. */
int kvc_ghosts_take(struct kvc_ghosts *ghosts, uint64_t hash);

/* Forget the oldest of a list; false: it is empty. */
bool kvc_ghosts_drop_oldest(struct kvc_ghosts *ghosts, unsigned list);

uint64_t kvc_ghosts_bytes(const struct kvc_ghosts *ghosts, unsigned list);
uint32_t kvc_ghosts_count(const struct kvc_ghosts *ghosts, unsigned list);
uint64_t kvc_ghosts_memory(const struct kvc_ghosts *ghosts);

#endif
