/* The fallback backend: threads that do one system call at a time.
 *
 * The mutex guards both lists and `stop`. Finished requests gather in a list; one task brings them all to the
 * loop, posted by whoever finds the list empty. */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/io/io_private.h"

enum { THREADS_MAX = 16 };

struct threads {
	struct kvc_io *io;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct kvc_list todo;
	struct kvc_list finished;
	struct kvc_task collect; /* queued in the loop's inbox while `finished` has anything */
	bool stop;
	uint32_t count;
	pthread_t ids[THREADS_MAX];
};

/* True: the caller must post the task. */
static bool finished_add(struct threads *threads, struct kvc_io_req *req)
{
	bool was_empty = kvc_list_empty(&threads->finished);

	kvc_list_push(&threads->finished, &req->node);
	return was_empty;
}

static void *thread_main(void *context)
{
	struct threads *threads = context;
	struct kvc_list *node;

	pthread_mutex_lock(&threads->lock);
	for (;;) {
		struct kvc_io_req *req;
		bool post;

		while (!(node = kvc_list_pop(&threads->todo)) && !threads->stop)
			pthread_cond_wait(&threads->work, &threads->lock);
		if (!node)
			break;
		pthread_mutex_unlock(&threads->lock);
		req = kvc_container_of(node, struct kvc_io_req, node);
		req->result = kvc_io_perform(req);
		pthread_mutex_lock(&threads->lock);
		post = finished_add(threads, req);
		pthread_mutex_unlock(&threads->lock);
		if (post)
			kvc_loop_post(threads->io->loop, &threads->collect);
		pthread_mutex_lock(&threads->lock);
	}
	pthread_mutex_unlock(&threads->lock);
	return NULL;
}

static void collect_run(struct kvc_task *task)
{
	struct threads *threads = kvc_container_of(task, struct threads, collect);
	struct kvc_list finished;
	struct kvc_list *node;

	kvc_list_init(&finished);
	pthread_mutex_lock(&threads->lock);
	kvc_list_splice(&finished, &threads->finished);
	pthread_mutex_unlock(&threads->lock);
	while ((node = kvc_list_pop(&finished))) {
		struct kvc_io_req *req = kvc_container_of(node, struct kvc_io_req, node);

		kvc_io_complete(threads->io, req, req->result);
	}
}

static void threads_start(struct kvc_io *io, struct kvc_io_req *req)
{
	struct threads *threads = io->backend;

	pthread_mutex_lock(&threads->lock);
	kvc_list_push(&threads->todo, &req->node);
	pthread_cond_signal(&threads->work);
	pthread_mutex_unlock(&threads->lock);
}

static void threads_flush(struct kvc_io *io)
{
	(void)io; /* every request is handed over at once */
}

/* --- life --------------------------------------------------------------------------------------- */

static void threads_close(struct kvc_io *io)
{
	struct threads *threads = io->backend;

	pthread_mutex_lock(&threads->lock);
	threads->stop = true;
	pthread_cond_broadcast(&threads->work);
	pthread_mutex_unlock(&threads->lock);
	for (uint32_t i = 0; i < threads->count; i++)
		pthread_join(threads->ids[i], NULL);
	pthread_cond_destroy(&threads->work);
	pthread_mutex_destroy(&threads->lock);
	kvc_free(threads);
}

/* As many as can be had; signals stay with the loop thread. */
static void threads_spawn(struct threads *threads, uint32_t wanted)
{
	sigset_t all, before;
	int error = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (threads->count < wanted && !error) {
		error = pthread_create(&threads->ids[threads->count], NULL, thread_main, threads);
		threads->count += !error;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		kvc_warn("only %u of %u disk threads: %s", threads->count, wanted, strerror(error));
}

static kvc_status threads_open(struct kvc_io *io)
{
	struct threads *threads = kvc_calloc(1, sizeof *threads);

	if (!threads)
		return KVC_NO_MEMORY;
	threads->io = io;
	threads->collect.run = collect_run;
	pthread_mutex_init(&threads->lock, NULL);
	pthread_cond_init(&threads->work, NULL);
	kvc_list_init(&threads->todo);
	kvc_list_init(&threads->finished);
	io->backend = threads;
	threads_spawn(threads, io->depth < THREADS_MAX ? io->depth : THREADS_MAX);
	if (!threads->count) {
		threads_close(io);
		return KVC_BUSY;
	}
	return KVC_OK;
}

const struct kvc_io_backend_ops kvc_io_threads_ops = {
        .name = "threads",
        .open = threads_open,
        .close = threads_close,
        .start = threads_start,
        .flush = threads_flush,
};
