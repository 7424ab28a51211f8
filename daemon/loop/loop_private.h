/* What loop.c, timer.c and watch.c share. Nobody else includes it. */
#ifndef KVC_LOOP_PRIVATE_H
#define KVC_LOOP_PRIVATE_H

#include <pthread.h>
#include <uv.h>

#include "daemon/loop/loop.h"

struct kvc_loop {
	uv_loop_t uv;
	pthread_t owner; /* the thread that runs it */
	struct kvc_list deferred;
	uv_prepare_t prepare;
	uv_check_t check;
	uv_idle_t idle; /* active while deferred tasks are left over */

	pthread_mutex_t inbox_lock; /* guards inbox */
	struct kvc_list inbox;
	uv_async_t wake;

	uv_timer_t timer;          /* armed for the head of the heap */
	uint64_t timer_armed_ms;   /* what it is armed for, 0: not armed */
	struct kvc_timer **timers; /* binary heap by due_ms */
	uint32_t timer_count;
	uint32_t timer_capacity;

	uint32_t watches;  /* open */
	uint32_t children; /* not reaped */
	struct kvc_list signals;
};

/* Aborts unless on the loop's own thread. */
void kvc_loop_check_owner(const struct kvc_loop *loop);

kvc_status kvc_loop_open_timers(struct kvc_loop *loop);

/* Make libuv wait no longer than the first timer allows. */
void kvc_loop_arm_timers(struct kvc_loop *loop);

#endif
