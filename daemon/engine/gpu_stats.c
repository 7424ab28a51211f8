/* Cells of the GPU engines. A cell's name must outlive the table of statistics, so all are constants. */
#include "daemon/engine/gpu_private.h"

#define NAMES(n)                                                                                            \
	{                                                                                                   \
		[GPU_CELL_UP] = "gpu." #n ".up", [GPU_CELL_RESTARTS] = "gpu." #n ".restarts",               \
		[GPU_CELL_HANGS] = "gpu." #n ".hangs", [GPU_CELL_JOBS] = "gpu." #n ".jobs",                 \
		[GPU_CELL_JOBS_QUEUED] = "gpu." #n ".jobs_queued",                                          \
		[GPU_CELL_JOBS_SENT] = "gpu." #n ".jobs_sent",                                              \
		[GPU_CELL_JOBS_LOST] = "gpu." #n ".jobs_lost", [GPU_CELL_REGIONS] = "gpu." #n ".regions",   \
		[GPU_CELL_POOLS] = "gpu." #n ".pools", [GPU_CELL_PINNED] = "gpu." #n ".pinned_bytes",       \
		[GPU_CELL_DEVICE] = "gpu." #n ".device_bytes", [GPU_CELL_LAUNCHES] = "gpu." #n ".launches", \
		[GPU_CELL_LAUNCHED_BLOCKS] = "gpu." #n ".blocks",                                           \
	}

static const char *const names[KVC_GPUS_MAX][GPU_CELLS] = {
        NAMES(0), NAMES(1), NAMES(2),  NAMES(3),  NAMES(4),  NAMES(5),  NAMES(6),  NAMES(7),
        NAMES(8), NAMES(9), NAMES(10), NAMES(11), NAMES(12), NAMES(13), NAMES(14), NAMES(15),
};

void kvc_gpu_stats_open(struct kvc_gpu *gpu)
{
	for (unsigned i = 0; i < GPU_CELLS; i++)
		gpu->cells[i] = kvc_stats_cell(gpu->options.stats, names[gpu->options.ordinal][i]);
}
