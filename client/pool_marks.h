/* Marks: how the daemon's GPU engine learns that a worker's stream has come to a request.
 *
 * A pool's marks are words in a page of memory that engine and GPU see. A transfer has its stream write the
 * next number of a word, just before the request is sent; the engine looks at the word until it holds that
 * number or more. No CUDA event is shared: those go through files that only processes of one user with the
 * same /dev/shm can open, and a daemon or a worker in a container is none of these.
 *
 * The words are taken in turn. Numbers of one word may only grow, so a stream that takes one waits for the
 * stream that took it before: with more requests under way than there are words the daemon waits for too much
 * rather than too little. The functions need the pool's context current, but for close. */
#ifndef KVCC_POOL_MARKS_H
#define KVCC_POOL_MARKS_H

#include <pthread.h>

#include "client/cuda_driver.h"
#include "client/wire.h"

struct kvcc_marks {
	const struct kvcc_cuda *cuda;
	uint32_t *words; /* mapped, and registered with the driver; NULL: not opened */
	kvcc_cu_address device;
	pthread_mutex_t lock; /* guards what follows, and the order of waiting, writing and recording */
	uint32_t next;
	uint32_t numbers[KVCC_POOL_MARKS];
	void *events[KVCC_POOL_MARKS]; /* behind the last write of each word */
};

/* Always to be closed. *fd is the caller's: what the daemon gets. KVC_UNSUPPORTED: a driver or GPU whose
 * streams cannot write to memory. */
kvc_status kvcc_marks_open(struct kvcc_marks *marks, const struct kvcc_cuda *cuda, int *fd);

/* Note on the stream what the daemon is to wait for. The driver may block. */
kvc_status kvcc_marks_note(struct kvcc_marks *marks, void *stream, struct kvcc_mark *mark);

/* `context`: the pool's. Words that a stream has yet to write are left to the process: the GPU must find
 * them. NULL: in a forked child the driver must not be called. */
void kvcc_marks_close(struct kvcc_marks *marks, void *context);

#endif
