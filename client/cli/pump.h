/* Moves the blocks of a job through a window of shared memory, several requests at a time: put fills a unit
 * of the window and sends it, get sends and then empties it. The caller says how to fill and empty. */
#ifndef KVC_CLI_PUMP_H
#define KVC_CLI_PUMP_H

#include "client/cli/job.h"

struct kvc_pump {
	struct kvc_job *job;
	bool put;
	size_t blocks; /* of the job, from the first, that are moved */
	size_t batch;  /* blocks of a request; 0: as many as make a few MiB */
	/* Put: fill the bytes of a block; get: they are there. False ends all (an error was told). NULL:
	 * nothing. */
	bool (*step)(void *data, size_t block, uint8_t *bytes);
	void *data;
};

struct kvc_pump_result {
	struct kvc_outcome outcome;
	size_t moved;       /* blocks whose status was KVC_OK */
	size_t first_other; /* the first that was not, or blocks */
	kvc_status other;   /* its status */
	double seconds;
};

/* Returns -1, or an exit code after telling the error. Blocks that are not KVC_OK do not end it. */
int kvc_pump_run(const struct kvc_pump *pump, struct kvc_pump_result *result);

#endif
