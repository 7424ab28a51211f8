/* What a kernel gets: all tiles of one kind (K or V) in one run of layers that share a codec, over all blocks
 * of a batch. Plain data, passed by value. Shared by the launchers and the kernels; not for users of kern.h.
 */
#ifndef KVC_KERN_TASK_H
#define KVC_KERN_TASK_H

#include "kernels/kern.h"

#define KVC_KERN_FAST_TOKENS 128u       /* longest tile of the fast kernels */
#define KVC_KERN_FIRST_MAX   (1u << 30) /* above any sensible first_token */

/* n / divisor for n below 2^31, without a division: (high 32 bits of n * factor, + n) >> shift. */
struct kern_divisor {
	uint32_t divisor;
	uint32_t factor;
	uint32_t shift;
};

/* A place without its name: what addresses of elements are made of. */
struct kern_place {
	const uint64_t *layers; /* address of each layer from the run's first one on, or NULL */
	uint64_t base;          /* of the run's first layer */
	uint64_t layer_stride;
	uint64_t page_stride;
	uint64_t token_stride;
	uint64_t head_stride;
	uint64_t alignment; /* all addresses of rows are multiples of its lowest bit */
};

struct kern_pages {
	uint64_t pages;
	struct kern_divisor page_tokens;
	uint32_t id_bytes;
};

/* One kind of a run: where its elements are and where its tiles go. */
struct kern_task {
	struct kern_place place;
	struct kern_pages pages;
	const struct kvc_kern_block *blocks;
	struct kvc_kern_result *results;
	uint64_t slot;        /* offset of the first layer's first slot of this kind */
	uint64_t layer_slots; /* from one layer's slots to the next one's */
	uint64_t image_bytes; /* of an image without raw tiles */
	uint32_t tiles;       /* in the whole batch */
	struct kern_divisor layers;
	struct kern_divisor heads;
	uint32_t tokens;
	uint32_t dim;
	uint32_t first;     /* tile number of the first layer's first head */
	uint32_t per_layer; /* tile numbers from one layer to the next */
	uint32_t raw_map;   /* offsets in an image */
	uint32_t sums;
	uint32_t slot_bytes;
	uint32_t raw_bytes[2]; /* of a raw tile, unpadded, by kind */
	uint32_t scales;       /* offsets in a slot */
	uint32_t codes;
	uint32_t group_log2;
	uint32_t run_log2; /* rotation works on 2^run_log2 channels */
	float clip;
	uint8_t bits; /* KVC_BITS_RAW: slots hold raw tiles */
	uint8_t kind;
	uint8_t dtype;
	uint8_t element_bytes;
	bool centred;
	bool rotate;
	bool gain;
};

/* For what is done once a block: clearing the raw map, placing raw tiles. */
struct kern_block_task {
	struct kern_place place[2]; /* by kind */
	struct kern_pages pages;
	const struct kvc_kern_block *blocks;
	struct kvc_kern_result *results;
	uint64_t image_bytes;
	uint64_t raw_image_bytes;
	uint32_t count;
	uint32_t tiles;
	uint32_t heads;
	uint32_t per_layer;
	uint32_t tokens;
	uint32_t raw_bytes[2]; /* of a raw tile, by kind */
	uint32_t row_bytes[2];
	uint32_t raw_map;
	uint32_t sums;
	bool encode;
};

#ifdef __cplusplus
extern "C" {
#endif

/* Check the whole job. */
kvc_status kern_job_check(const struct kvc_kern_job *job);

/* Fill the task of `kind` in the run of layers that starts at `layer`; 0 layers past the last one. */
void kern_task_init(struct kern_task *task, const struct kvc_kern_job *job, enum kvc_kind kind,
                    uint32_t layer);

void kern_block_task_init(struct kern_block_task *task, const struct kvc_kern_job *job);

/* True if the fast kernels take this task: dimension, code width, alignment. */
bool kern_task_is_fast(const struct kern_task *task);

#ifdef __cplusplus
}
#endif

#endif
