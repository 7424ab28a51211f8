/* How kernels are chosen and launched; shared by the files that hold them. */
#ifndef KVC_KERN_LAUNCH_CUH
#define KVC_KERN_LAUNCH_CUH

#include "kernels/dev.cuh"
#include "kernels/kern_task.h"
#include "kernels/kern_tile.cuh"

#define KERN_SHARED_MAX 232448u /* of a thread block on compute capability 9.0 */

/* A kernel over tiles, and what a thread block of it needs. */
struct kern_choice {
	void (*kernel)(struct kern_task);
	uint32_t teams;
	uint32_t shared_bytes;
};

/* As many teams as the kernel is made for, or as fit. */
inline struct kern_choice kern_choice_make(void (*kernel)(struct kern_task), uint32_t teams, uint32_t team_bytes)
{
	uint32_t fit = (KERN_SHARED_MAX - TILE_SHARED_FIXED) / team_bytes;
	struct kern_choice choice = {kernel, teams < fit ? teams : fit, 0};

	choice.shared_bytes = TILE_SHARED_FIXED + choice.teams * team_bytes;
	return choice;
}

/* The fast kernels by number: KERN_FAST_COUNT of each. */
#define KERN_FAST_COUNT 18u
struct kern_choice kern_encode_choice(unsigned number);
struct kern_choice kern_decode_choice(unsigned number);

/* Number of the fast kernels for a task that they take. */
inline unsigned kern_fast_number(const struct kern_task *task)
{
	unsigned dim = task->dim / 128;
	unsigned bits = task->bits / 4;

	return (dim * 3 + bits) * 2 + (task->dtype == KVC_DTYPE_BF16);
}

#endif
