/* What the files behind gpu.h share. Nobody else includes it.
 *
 *   engine_gpu.c   the table of functions: submit and cancel; jobs to packets, results to jobs
 *   gpu_process.c  life of the process: states, back-off, hang
 *   gpu_link.c     the pair: what may be sent goes out, packets that come are bounded and checked
 *   gpu_memory.c   regions and pools
 *   gpu_stats.c    cells by name
 */
#ifndef KVC_GPU_PRIVATE_H
#define KVC_GPU_PRIVATE_H

#include <limits.h>

#include "daemon/engine/gpu.h"
#include "daemon/loop/child.h"

enum {
	GPU_SLOTS = 4096, /* jobs that an engine has at a time; the others wait here */
	GPU_UUID_BYTES = 16,
	GPU_NAME_BYTES = 64,
};

enum gpu_state {
	GPU_DOWN,      /* no process */
	GPU_STARTING,  /* START is sent */
	GPU_RESTORING, /* ready; regions and pools are set up again */
	GPU_UP,        /* takes jobs */
	GPU_ENDING,    /* killed or ending by itself; not reaped. Jobs are still its own */
	GPU_CLOSING,   /* asked for by the owner */
};

enum gpu_cell {
	GPU_CELL_UP,
	GPU_CELL_RESTARTS,
	GPU_CELL_HANGS,
	GPU_CELL_JOBS,
	GPU_CELL_JOBS_QUEUED,
	GPU_CELL_JOBS_SENT,
	GPU_CELL_JOBS_LOST,
	GPU_CELL_REGIONS,
	GPU_CELL_POOLS,
	GPU_CELL_PINNED,
	GPU_CELL_DEVICE,
	GPU_CELL_LAUNCHES,
	GPU_CELL_LAUNCHED_BLOCKS,
	GPU_CELLS
};

/* A job that the engine has. On the wire: slot and generation, so that a late or made-up answer finds no job
 * of somebody else. */
struct gpu_slot {
	struct kvc_engine_job *job; /* NULL: free */
	uint64_t sent_ms;
	uint32_t generation;
	uint32_t next_free;
	bool cancel; /* to be told to the engine */
};

struct kvc_gpu {
	struct kvc_engine engine; /* first */
	struct kvc_gpu_options options;
	char program[PATH_MAX];
	struct kvc_gpu_events events;
	void (*verdict)(void *context, struct kvc_gpu *gpu, kvc_status status, const char *detail);
	void *verdict_context;
	void (*closed)(void *context);
	void *closed_context;
	struct kvc_task close_task;
	kvc_stat_cell *cells[GPU_CELLS];

	/* process */
	enum gpu_state state;
	struct kvc_child *child;
	struct kvc_timer timer; /* always armed, so that it never has to grow the loop's heap */
	bool judged;            /* the verdict is out */
	bool condemned;         /* and it was a failure */
	bool announced;         /* somebody takes it for up */
	uint32_t life;          /* processes that are gone */
	uint64_t up_ms;         /* since when it is up */
	uint64_t backoff_ms;
	uint64_t progress_ms; /* when it last answered, or had nothing to answer */
	kvc_status why;       /* of this process's end */
	bool killed;          /* by us */
	char detail[KVC_GPU_DETAIL_BYTES];
	bool known; /* uuid and name are */
	uint8_t uuid[GPU_UUID_BYTES];
	char name[GPU_NAME_BYTES];

	/* link */
	int fd; /* -1: none */
	struct kvc_watch *watch;
	struct kvc_task pump;

	/* jobs */
	struct kvc_list queue; /* not sent */
	struct kvc_list sent;  /* oldest first */
	struct gpu_slot *slots;
	uint32_t free_slot; /* GPU_SLOTS: none */
	uint32_t cancels;   /* slots to be told */

	/* regions and pools */
	struct kvc_list regions;
	struct kvc_list pools;
	struct kvc_list requests; /* of them, not sent */
	struct kvc_list awaited;  /* sent, not answered */
	uint32_t last_id;
	bool pools_restored;

	_Alignas(8) uint8_t in[KVC_GPU_MESSAGE_BYTES];
	_Alignas(8) uint8_t out[KVC_GPU_MESSAGE_BYTES];
};

/* ---- gpu_process.c ------------------------------------------------------------------------- */

/* This process is of no use any more: kill it, and say why when it has been reaped. Nothing if it is ending
 * already. */
void kvc_gpu_fail(struct kvc_gpu *gpu, kvc_status status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* Its end of the pair is closed: it is ending by itself. */
void kvc_gpu_ended(struct kvc_gpu *gpu);

void kvc_gpu_ready(struct kvc_gpu *gpu, const struct kvc_gpu_ready *ready);

/* Regions and pools are set up. */
void kvc_gpu_announce(struct kvc_gpu *gpu);

/* It answered something. */
void kvc_gpu_progress(struct kvc_gpu *gpu);

/* ---- gpu_link.c ---------------------------------------------------------------------------- */

/* Make the pair; *theirs is the engine's end, for the caller to close. */
kvc_status kvc_gpu_link_open(struct kvc_gpu *gpu, int *theirs);
void kvc_gpu_link_close(struct kvc_gpu *gpu);

/* Send what is in gpu->out. KVC_BUSY: not now, the pump runs again when there is room. */
kvc_status kvc_gpu_link_send(struct kvc_gpu *gpu, size_t bytes, const int *fds, uint32_t fd_count);

/* Take what lies in the socket of a process that has ended. */
void kvc_gpu_link_drain(struct kvc_gpu *gpu);

/* Something may be sent: do so in this turn, after what runs now. */
void kvc_gpu_pump(struct kvc_gpu *gpu);

/* ---- engine_gpu.c -------------------------------------------------------------------------- */

kvc_status kvc_gpu_jobs_open(struct kvc_gpu *gpu);
void kvc_gpu_jobs_close(struct kvc_gpu *gpu);

/* The next packet of jobs. KVC_MISS: there is none. */
kvc_status kvc_gpu_jobs_send(struct kvc_gpu *gpu);
kvc_status kvc_gpu_cancels_send(struct kvc_gpu *gpu);
void kvc_gpu_jobs_results(struct kvc_gpu *gpu, const struct kvc_gpu_result *results, uint32_t count);

/* The process is gone: all jobs end. */
void kvc_gpu_jobs_lose(struct kvc_gpu *gpu);

/* When the oldest job was sent; UINT64_MAX: there is none. */
uint64_t kvc_gpu_jobs_oldest_ms(const struct kvc_gpu *gpu);

/* ---- gpu_memory.c -------------------------------------------------------------------------- */

/* The next request. KVC_MISS: there is none. */
kvc_status kvc_gpu_memory_send(struct kvc_gpu *gpu);
void kvc_gpu_memory_reply(struct kvc_gpu *gpu, const struct kvc_gpu_reply *reply);

/* When the oldest request that is not answered was sent; UINT64_MAX: there is none. */
uint64_t kvc_gpu_memory_oldest_ms(const struct kvc_gpu *gpu);

/* Ask the engine for all that the one before had; announces it when done. */
void kvc_gpu_memory_restore(struct kvc_gpu *gpu);

/* The process is gone, and all that it had mapped. */
void kvc_gpu_memory_lose(struct kvc_gpu *gpu);

/* Whether every region and pool is closed, or about to be. */
bool kvc_gpu_memory_closed(const struct kvc_gpu *gpu);

/* The engine has it. */
bool kvc_gpu_pool_usable(const struct kvc_pool *pool);
uint32_t kvc_gpu_pool_id(const struct kvc_pool *pool);

/* Count of jobs that name it, by +1 or -1. */
void kvc_gpu_pool_use(struct kvc_pool *pool, int32_t n);

/* ---- gpu_stats.c --------------------------------------------------------------------------- */

void kvc_gpu_stats_open(struct kvc_gpu *gpu);

#endif
