/* The two roads from a worker's pool into the daemon, behind one face, for benches.
 *
 * Road 1: the daemon's GPU engine works on the worker's memory (kvcellar_cuda.h). Road 2: the codec runs
 * inside the worker (kvcellar_worker.h, libkvcellar-cuda), loaded when it is asked for. One thread at a time.
 */
#ifndef KVC_TESTS_GPU_ROAD_H
#define KVC_TESTS_GPU_ROAD_H

#include "tests/gpu/e2e/paged.h"
#include "tests/gpu/e2e/rig.h"

struct kvc_worker;

struct road {
	unsigned number; /* 1 or 2 */
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct paged *paged;
	struct kvc_worker *worker; /* road 2 */
	void *stream;
	uint32_t batch; /* blocks of one request */
	uint32_t depth; /* requests under way */
};

/* False: not there, and a line on stderr says why. `sms`: of road 2; 0: its default. */
bool road_open(struct road *road, unsigned number, const char *socket,
               const struct kvc_namespace_options *options, struct paged *paged, uint32_t sms, void *stream);
void road_close(struct road *road);

/* All blocks, in requests of road->batch, several under way. How many were KVC_OK; outcome may be NULL. */
size_t road_put(struct road *road, struct kvc_block *blocks, size_t count, struct kvc_outcome *outcome);
size_t road_get(struct road *road, struct kvc_block *blocks, size_t count, struct kvc_outcome *outcome);
void road_drop(struct road *road, const struct kvc_block *blocks, size_t count);

#endif
