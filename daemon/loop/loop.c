/* The event loop over libuv.
 *
 * One turn: due timers, then deferred tasks (prepare), then the wait for descriptors with their callbacks,
 * then deferred tasks again (check). So a deferred task runs in the turn that queued it, after the callback
 * that queued it, and everything that the callbacks of one turn submit is seen by one run of a batching task.
 *
 * The loop owns its handles, the timer heap and the memory of watches and signals; tasks and timers belong to
 * their users. Only the inbox is touched by other threads, under its mutex. What it does not do: run anything
 * off the loop thread. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <uv.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/loop/loop.h"
#include "daemon/loop/loop_private.h"

/* Rounds of deferred tasks between two waits; what is left then waits for the next turn, which does not
 * block. */
enum { DEFER_ROUNDS = 16 };

struct loop_signal {
	struct kvc_list node;
	uv_signal_t uv;
	kvc_signal_callback callback;
	void *context;
};

static struct kvc_loop *loop_of(const uv_loop_t *uv)
{
	return uv->data;
}

void kvc_loop_check_owner(const struct kvc_loop *loop)
{
	KVC_PRE(pthread_equal(loop->owner, pthread_self()));
}

/* --- deferred tasks ---------------------------------------------------------------------------- */

static void tasks_run(struct kvc_list *tasks)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(tasks))) {
		struct kvc_task *task = kvc_container_of(node, struct kvc_task, node);

		task->queued = false;
		task->run(task);
	}
}

static void idle_fired(uv_idle_t *idle)
{
	(void)idle; /* its being active is what keeps the next wait from blocking */
}

/* False: there was nothing to do. */
static bool deferred_drain(struct kvc_loop *loop)
{
	int round = 0;

	for (; round < DEFER_ROUNDS && !kvc_list_empty(&loop->deferred); round++) {
		struct kvc_list tasks;

		kvc_list_init(&tasks);
		kvc_list_splice(&tasks, &loop->deferred);
		tasks_run(&tasks);
	}
	return round > 0;
}

/* A turn that ran tasks before the wait has done its part and does not wait: who runs the loop by turns sees
 * what the tasks did. */
static void prepare_fired(uv_prepare_t *prepare)
{
	struct kvc_loop *loop = loop_of(prepare->loop);

	if (deferred_drain(loop))
		uv_idle_start(&loop->idle, idle_fired);
	kvc_loop_arm_timers(loop);
}

static void check_fired(uv_check_t *check)
{
	struct kvc_loop *loop = loop_of(check->loop);

	deferred_drain(loop);
	if (kvc_list_empty(&loop->deferred))
		uv_idle_stop(&loop->idle);
	else
		uv_idle_start(&loop->idle, idle_fired);
}

static void task_queue(struct kvc_list *list, struct kvc_task *task)
{
	task->queued = true;
	kvc_list_push(list, &task->node);
}

void kvc_loop_defer(struct kvc_loop *loop, struct kvc_task *task)
{
	kvc_loop_check_owner(loop);
	KVC_PRE(task->run);
	if (!task->queued)
		task_queue(&loop->deferred, task);
}

/* --- inbox ------------------------------------------------------------------------------------- */

void kvc_loop_post(struct kvc_loop *loop, struct kvc_task *task)
{
	bool was_empty;

	KVC_PRE(task->run && !task->queued);
	pthread_mutex_lock(&loop->inbox_lock);
	was_empty = kvc_list_empty(&loop->inbox);
	task_queue(&loop->inbox, task);
	pthread_mutex_unlock(&loop->inbox_lock);
	if (was_empty)
		uv_async_send(&loop->wake);
}

/* One batch a wake-up: who posts while it runs finds the inbox empty and wakes the loop again. */
static void inbox_fired(uv_async_t *wake)
{
	struct kvc_loop *loop = loop_of(wake->loop);
	struct kvc_list tasks;

	kvc_list_init(&tasks);
	pthread_mutex_lock(&loop->inbox_lock);
	kvc_list_splice(&tasks, &loop->inbox);
	pthread_mutex_unlock(&loop->inbox_lock);
	tasks_run(&tasks);
}

/* --- signals ----------------------------------------------------------------------------------- */

static void signal_fired(uv_signal_t *uv, int number)
{
	struct loop_signal *signal = kvc_container_of(uv, struct loop_signal, uv);

	signal->callback(signal->context, number);
}

static void signal_closed(uv_handle_t *handle)
{
	kvc_free(kvc_container_of(handle, struct loop_signal, uv));
}

kvc_status kvc_loop_on_signal(struct kvc_loop *loop, int number, kvc_signal_callback callback, void *context)
{
	struct loop_signal *signal = kvc_calloc(1, sizeof *signal);

	kvc_loop_check_owner(loop);
	if (!signal)
		return KVC_NO_MEMORY;
	if (uv_signal_init(&loop->uv, &signal->uv)) {
		kvc_free(signal);
		return KVC_NO_MEMORY;
	}
	signal->callback = callback;
	signal->context = context;
	kvc_list_push(&loop->signals, &signal->node);
	if (uv_signal_start(&signal->uv, signal_fired, number))
		return KVC_INVALID;
	return KVC_OK;
}

static void signals_close(struct kvc_loop *loop)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(&loop->signals))) {
		struct loop_signal *signal = kvc_container_of(node, struct loop_signal, node);

		uv_close((uv_handle_t *)&signal->uv, signal_closed);
	}
}

/* --- life -------------------------------------------------------------------------------------- */

/* A vanished peer is an error of the write, and so is a file-size limit: neither may end the process. */
static void ignore_signals(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

static kvc_status handles_open(struct kvc_loop *loop)
{
	if (uv_async_init(&loop->uv, &loop->wake, inbox_fired))
		return KVC_NO_MEMORY;
	/* These only link the handle into the loop and cannot fail. */
	uv_timer_init(&loop->uv, &loop->timer);
	uv_idle_init(&loop->uv, &loop->idle);
	uv_prepare_init(&loop->uv, &loop->prepare);
	uv_prepare_start(&loop->prepare, prepare_fired);
	uv_check_init(&loop->uv, &loop->check);
	uv_check_start(&loop->check, check_fired);
	return KVC_OK;
}

static void loop_init(struct kvc_loop *loop)
{
	loop->uv.data = loop;
	loop->owner = pthread_self();
	pthread_mutex_init(&loop->inbox_lock, NULL);
	kvc_list_init(&loop->inbox);
	kvc_list_init(&loop->deferred);
	kvc_list_init(&loop->signals);
}

kvc_status kvc_loop_open(struct kvc_loop **loop)
{
	struct kvc_loop *opened = kvc_calloc(1, sizeof *opened);
	kvc_status status = KVC_NO_MEMORY;

	if (!opened)
		return KVC_NO_MEMORY;
	if (uv_loop_init(&opened->uv))
		goto free_loop;
	loop_init(opened);
	status = kvc_loop_open_timers(opened);
	if (status)
		goto close_uv;
	status = handles_open(opened);
	if (status)
		goto close_timers;
	ignore_signals();
	*loop = opened;
	return KVC_OK;

close_timers:
	kvc_free(opened->timers);
close_uv:
	pthread_mutex_destroy(&opened->inbox_lock);
	uv_loop_close(&opened->uv);
free_loop:
	kvc_free(opened);
	return status;
}

static void handles_close(struct kvc_loop *loop)
{
	uv_close((uv_handle_t *)&loop->wake, NULL);
	uv_close((uv_handle_t *)&loop->timer, NULL);
	uv_close((uv_handle_t *)&loop->idle, NULL);
	uv_close((uv_handle_t *)&loop->prepare, NULL);
	uv_close((uv_handle_t *)&loop->check, NULL);
	signals_close(loop);
}

void kvc_loop_close(struct kvc_loop *loop)
{
	loop->owner = pthread_self();
	KVC_PRE(kvc_list_empty(&loop->deferred) && kvc_list_empty(&loop->inbox));
	KVC_PRE(!loop->timer_count && !loop->watches && !loop->children);
	handles_close(loop);
	uv_run(&loop->uv, UV_RUN_DEFAULT); /* runs the close callbacks; ends as no handle is left */
	KVC_INVARIANT(uv_loop_close(&loop->uv) == 0);
	pthread_mutex_destroy(&loop->inbox_lock);
	kvc_free(loop->timers);
	kvc_free(loop);
}

void kvc_loop_run(struct kvc_loop *loop)
{
	loop->owner = pthread_self();
	uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void kvc_loop_turn(struct kvc_loop *loop)
{
	loop->owner = pthread_self();
	uv_run(&loop->uv, UV_RUN_ONCE);
}

void kvc_loop_stop(struct kvc_loop *loop)
{
	kvc_loop_check_owner(loop);
	uv_stop(&loop->uv);
}

uint64_t kvc_loop_now_ms(const struct kvc_loop *loop)
{
	return uv_now(&loop->uv);
}
