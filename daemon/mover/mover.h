/* The mover: one move = one block going between a client's memory, the RAM arena and a tier.
 *
 *   ENCODE   client's memory -> slab          (CPU engine)
 *   DECODE   slab -> client's memory          (CPU engine)
 *   GATHER   pool in VRAM -> slab or VRAM     (GPU engine)
 *   SCATTER  slab or VRAM -> pool in VRAM     (GPU engine)
 *   LOWER    VRAM -> slab                     (GPU engine)
 *   STORE    slab -> tier                     (tier)
 *   LOAD     tier -> slab                     (tier)
 *   SYNC     everything stored before is on stable storage
 *
 * Moves live in the caller's objects and queue by flow (whose they are) and class: what a client waits for
 * goes before what can wait (loads and decodes, then encodes; then syncs and stores). Flows take turns by
 * bytes (daemon/base/fair.h), within either of these two; within a flow's turn the more urgent class goes
 * first, but after eight of those one that waits; so of the two lanes, too. A fixed number of slots, and a
 * bound on the bytes of each class, limit what runs at a time. The CPU engine, the tier and a GPU have slots
 * of their own: a disk that hangs keeps nothing from RAM, and a GPU needs many blocks under way to be busy.
 * Each GPU has a mover of its own, so that one that stands still, and keeps what it has, holds up no other.
 * While several flows have been seen lately, none of them may take the last quarter of slots and bytes.
 * Nothing is allocated after open. Loop thread only. Submit never calls back; `done` comes exactly once.
 *
 * The mover moves and counts. It knows nothing of entries, eviction or sessions. */
#ifndef KVC_MOVER_H
#define KVC_MOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "daemon/engine/engine.h"
#include "daemon/stats/stats.h"
#include "daemon/tier/tier.h"
#include "kernels/image.h"
#include "proto/kvc_status.h"

struct kvc_mover;

enum kvc_move_kind {
	KVC_MOVE_SCATTER,
	KVC_MOVE_DECODE,
	KVC_MOVE_LOAD,
	KVC_MOVE_GATHER,
	KVC_MOVE_ENCODE,
	KVC_MOVE_LOWER,
	KVC_MOVE_SYNC,
	KVC_MOVE_STORE,
	KVC_MOVE_KINDS,
};

/* What is begun before anything else, and what can wait. */
enum kvc_move_lane { KVC_LANE_FRONT, KVC_LANE_BACK, KVC_LANES };

/* Whose slots. */
enum kvc_move_pool { KVC_POOL_CPU, KVC_POOL_DISK, KVC_POOL_GPU, KVC_POOLS };

/* Whose moves they are. The owner's; in use while one of its moves is. */
struct kvc_move_flow {
	struct kvc_fair_flow turns[KVC_POOLS][KVC_LANES];
	struct kvc_list queues[KVC_MOVE_KINDS];
	uint32_t passed[KVC_MOVE_KINDS]; /* how often others went before what waits there */
	uint32_t queued[KVC_POOLS][KVC_LANES];
	uint32_t running[KVC_POOLS];
	uint64_t running_bytes[KVC_MOVE_KINDS];
	uint32_t stirring; /* moves that are queued or run, but syncs */
	struct kvc_engine_flow engine;
};

/* `weight` as in daemon/base/fair.h; may be changed with kvc_move_flow_weight. */
void kvc_move_flow_init(struct kvc_move_flow *flow, uint32_t weight);
void kvc_move_flow_weight(struct kvc_move_flow *flow, uint32_t weight);

enum kvc_move_state { KVC_MOVE_IDLE, KVC_MOVE_QUEUED, KVC_MOVE_RUNNING };

struct kvc_move {
	/* set by the caller */
	enum kvc_move_kind kind;
	struct kvc_move_flow *flow;            /* NULL: of nobody in particular */
	const struct kvc_image_plan *plan;     /* all of engines */
	const struct kvc_block_view *view;     /* encode, decode: elements in the client's memory, or */
	const struct kvc_image_view *external; /* an image there */
	const struct kvc_device_view *device;  /* gather, scatter */
	struct kvc_engine *gpu;                /* gather, scatter, lower */
	uint64_t vram;             /* gather, scatter, lower: as in kvc_engine_job; KVC_VRAM_NONE: RAM only */
	uint32_t life;             /* with vram, likewise */
	uint8_t *slab;             /* all but sync: start of the record; NULL: in VRAM only */
	uint64_t image_bytes;      /* encode, gather: capacity of the image. else: its length */
	struct kvc_record *record; /* store: out place and epoch; load: what is expected */
	uint32_t cookie;           /* store */
	void (*done)(struct kvc_move *move);

	/* results: status as of the engine or the tier */
	kvc_status status;
	uint64_t length; /* encode: of the image, or what is needed */

	/* private */
	struct kvc_list node;
	enum kvc_move_state state;
	struct kvc_move_slot *slot;
	struct kvc_mover *mover;
	struct kvc_task cancelled;
};

struct kvc_mover_options {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_engine *engine;
	struct kvc_tier *disk; /* NULL: no LOAD, STORE, SYNC */
	uint32_t slots;        /* moves that run at a time on the CPU engine, and as many on the tier; 0: only
	                        * those of a GPU come */
	uint32_t gpu_slots;    /* likewise, on a GPU; 0: none come */
	uint64_t
	        class_bytes; /* image bytes of each kind that run at a time; one move is always let through */
	uint64_t gpu_class_bytes;
};

kvc_status kvc_mover_open(const struct kvc_mover_options *options, struct kvc_mover **mover);

/* All moves must be done. */
void kvc_mover_close(struct kvc_mover *mover);

void kvc_move_submit(struct kvc_mover *mover, struct kvc_move *move);

/* Ask for an early end: a queued move ends with KVC_CANCELLED, a running engine job as soon as it can, a
 * running tier request as it would have. `done` still comes, and not from inside this call. */
void kvc_move_cancel(struct kvc_move *move);

/* Moves of a kind that are queued or running. */
uint32_t kvc_mover_pending(const struct kvc_mover *mover, enum kvc_move_kind kind);

#endif
