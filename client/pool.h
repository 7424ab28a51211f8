/* A pool of device memory, inside the library. */
#ifndef KVCC_POOL_H
#define KVCC_POOL_H

#include "client/cuda_driver.h"
#include "client/objects.h"
#include "client/pool_marks.h"
#include "kvcellar_cuda.h"

struct kvc_pool {
	struct kvc_client *client;
	struct kvcc_node node;      /* in client->pools */
	struct kvcc_region *region; /* NULL: not made yet, or taken back */
	struct kvcc_gone gone;      /* once taken back */
	struct kvcc_shape shape;    /* that it was registered for */
	uint64_t pages;
	uint32_t page_tokens;
	const struct kvcc_cuda *cuda;
	int device;
	void *context;
	bool retained; /* the context is the primary one, kept alive by us */
	struct kvcc_marks marks;
};

/* Note on the stream what the daemon is to wait for. Without the client's lock: the driver may block. */
kvc_status kvcc_pool_note(struct kvc_pool *pool, void *stream, struct kvcc_mark *mark);

/* forked: in a child of the process that made it. */
void kvcc_pool_free(struct kvc_pool *pool, bool forked);

#endif
