/* The VRAM tier: blocks that rest in the memory of a GPU, as images of exactly plan.image_bytes, full blocks
 * only.
 *
 * A GPU's VRAM pool is cut into extents here; the engine knows offsets only. What is known of a block beyond
 * its entry stands in a cell, because few blocks rest in VRAM: its GPU, its extent, its neighbours by
 * recency, and what is needed to write it down into RAM (record, namespace).
 *
 *   reserve -> LOOSE (a gather or a promotion fills it) --attach--> ATTACHED (of an entry) --detach--> free
 *                `---------------release--------------------------------------------------------------^
 *
 * A block that rests nowhere else is never evicted from here, but lowered into RAM first (lower.c), so that
 * cold blocks are there already when room is wanted. When an engine is lost, all of its cells go. */
#ifndef KVC_CACHE_VRAM_H
#define KVC_CACHE_VRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/gpu.h"
#include "daemon/tier/record.h"

#define KVC_CELL_NONE 0xFFFFFFFFu

struct kvc_cache;
struct kvc_move;
struct kvc_ns;
struct kvc_tenant;
struct kvc_vram;

kvc_status kvc_vram_open(struct kvc_cache *cache, struct kvc_vram **vram);

/* All cells must be free. */
void kvc_vram_close(struct kvc_vram *vram);

/* Room for an image on that GPU; clean blocks that are colder go. KVC_NO_SPACE: no VRAM tier there, or it is
 * full of blocks that cannot go at once. */
kvc_status kvc_vram_reserve(struct kvc_cache *cache, const struct kvc_gpu *gpu, uint64_t image_bytes,
                            uint32_t *cell);

/* Give up a cell that no entry has. */
void kvc_vram_release(struct kvc_cache *cache, uint32_t cell);

/* Let the move, whose gpu is the cell's, name it: which holds as long as that engine's process lives. */
void kvc_vram_name(const struct kvc_cache *cache, uint32_t cell, struct kvc_move *move);

/* Submit a move of that GPU for the tenant, complete but for GPU and flow. */
void kvc_vram_move_submit(struct kvc_cache *cache, struct kvc_tenant *tenant, const struct kvc_gpu *gpu,
                          struct kvc_move *move);

struct kvc_gpu *kvc_vram_gpu(const struct kvc_cache *cache, uint32_t cell);
const struct kvc_record *kvc_vram_record(const struct kvc_cache *cache, uint32_t cell);
struct kvc_ns *kvc_vram_ns(const struct kvc_cache *cache, uint32_t cell);

/* The cell holds the entry's image from now on. A block with a parent in this tier is listed just colder than
 * that, else as the hottest. Keeps a reference of the namespace. */
void kvc_vram_attach(struct kvc_cache *cache, uint32_t cell, uint32_t entry, struct kvc_ns *ns,
                     const struct kvc_record *record);

/* The entry rests in VRAM no more; nothing happens if it does not. */
void kvc_vram_detach(struct kvc_cache *cache, uint32_t entry);

/* The cell of an entry, KVC_CELL_NONE: it does not rest in VRAM. */
uint32_t kvc_vram_cell(struct kvc_cache *cache, uint32_t entry);

void kvc_vram_touch(struct kvc_cache *cache, uint32_t entry);

/* How far a search for blocks to lower has come; begins as zeros. */
struct kvc_vram_walk {
	uint32_t gpu;
	bool begun;      /* on that GPU, and `entry` is the last one that was found */
	uint32_t entry;  /* still there */
	uint32_t looked; /* at so many cells of that GPU */
	uint32_t pages;  /* free, or of blocks that are clean, or soon are */
};

/* The next block, from the coldest on, that rests in VRAM only, that nothing happens to, whose tenant was not
 * refused in this run of lower.c, and that should be lowered now, or KVC_ENTRY_NONE: among the coldest of a
 * GPU whose room is short, or `any` at all. The one found before must be on its way, or its tenant refused.
 * Not of a GPU that ends, or has enough of them under way. */
uint32_t kvc_vram_to_lower(struct kvc_cache *cache, bool any, struct kvc_vram_walk *walk);

/* A block of that GPU is on its way down: +1; or no longer: -1. */
void kvc_vram_lowering(struct kvc_cache *cache, const struct kvc_gpu *gpu, int by);

/* Detach all, at stop: how many outlive a restart if they are on disk, and rested nowhere else. */
uint32_t kvc_vram_clear(struct kvc_cache *cache);

#endif
