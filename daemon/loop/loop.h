/* The event loop that owns all daemon state. One thread runs it; every object of cache, mover, tier, rpc
 * belongs to that thread. Other threads hand over work with kvc_loop_post only.
 *
 * libuv underneath; tests/sim can replace this file's implementation with one over a simulated clock. */
#ifndef KVC_LOOP_H
#define KVC_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "proto/kvc_status.h"

struct kvc_loop;

/* A piece of work, embedded in the object that it is for. Zero-initialised or run: idle. */
struct kvc_task {
	struct kvc_list node;
	void (*run)(struct kvc_task *task);
	bool queued;
};

kvc_status kvc_loop_open(struct kvc_loop **loop);

/* Frees the loop. No task may be queued, no timer running, no handle open. */
void kvc_loop_close(struct kvc_loop *loop);

/* Run until kvc_loop_stop. */
void kvc_loop_run(struct kvc_loop *loop);
void kvc_loop_stop(struct kvc_loop *loop);

/* One turn: waits for something to happen, and runs what it is for. For tests and start-up. */
void kvc_loop_turn(struct kvc_loop *loop);

/* Milliseconds of CLOCK_MONOTONIC, read once a turn of the loop. */
uint64_t kvc_loop_now_ms(const struct kvc_loop *loop);

/* Loop thread only: run the task in this turn, after the callback that is running now. This is how a submit
 * function delivers a result that it has at once. A queued task is not queued twice. */
void kvc_loop_defer(struct kvc_loop *loop, struct kvc_task *task);

/* Any thread: run the task on the loop thread. Wakes the loop only if its inbox was empty. Must not be
 * queued. */
void kvc_loop_post(struct kvc_loop *loop, struct kvc_task *task);

/* One-shot timer; loop thread only. Zero-initialised: stopped. */
struct kvc_timer {
	struct kvc_loop *loop;
	uint64_t due_ms;
	uint32_t heap_slot; /* 1 + place in the loop's heap, 0: stopped */
	void (*fire)(struct kvc_timer *timer);
};

/* (Re)start. Allocates nothing if the timer was reserved; KVC_NO_MEMORY if the heap cannot grow. */
kvc_status kvc_timer_start(struct kvc_loop *loop, struct kvc_timer *timer, uint64_t delay_ms);
void kvc_timer_stop(struct kvc_timer *timer);

/* Call back on the loop thread while `fd` is readable / writable (level-triggered). */
struct kvc_watch;
typedef void (*kvc_watch_callback)(void *context, bool readable, bool writable);

kvc_status kvc_watch_open(struct kvc_loop *loop, int fd, kvc_watch_callback callback, void *context,
                          struct kvc_watch **watch);
void kvc_watch_set(struct kvc_watch *watch, bool readable, bool writable);

/* No callback after this returns; the descriptor stays the caller's and may be closed at once. */
void kvc_watch_close(struct kvc_watch *watch);

/* Call back on the loop thread when the process gets the signal. */
typedef void (*kvc_signal_callback)(void *context, int number);
kvc_status kvc_loop_on_signal(struct kvc_loop *loop, int number, kvc_signal_callback callback, void *context);

#endif
