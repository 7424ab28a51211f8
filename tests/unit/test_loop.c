/* The event loop: order of deferred tasks, posts from threads, timers, watches, signals. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/loop/loop.h"
#include "tests/support/loop_run.h"

static struct kvc_loop *loop;

static int open_loop(void **state)
{
	(void)state;
	return kvc_loop_open(&loop) == KVC_OK ? 0 : 1;
}

static int close_loop(void **state)
{
	(void)state;
	kvc_loop_close(loop);
	return 0;
}

/* --- deferred tasks ---------------------------------------------------------------------------- */

struct step {
	struct kvc_task task;
	int number;
	struct step *then; /* deferred from inside */
};

static int order[16];
static int steps;

static void step_run(struct kvc_task *task)
{
	struct step *step = kvc_container_of(task, struct step, task);

	order[steps++] = step->number;
	if (step->then)
		kvc_loop_defer(loop, &step->then->task);
}

static void test_defer_keeps_order_and_runs_in_one_turn(void **state)
{
	struct step third = {.task = {.run = step_run}, .number = 3};
	struct step first = {.task = {.run = step_run}, .number = 1, .then = &third};
	struct step second = {.task = {.run = step_run}, .number = 2};

	(void)state;
	steps = 0;
	kvc_loop_defer(loop, &first.task);
	kvc_loop_defer(loop, &second.task);
	kvc_loop_defer(loop, &first.task); /* queued already: no second run */
	assert_int_equal(steps, 0);
	kvc_loop_turn(loop);
	assert_int_equal(steps, 3);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 2);
	assert_int_equal(order[2], 3);
}

struct forever {
	struct kvc_task task;
	struct kvc_timer timer;
	uint64_t runs;
	bool stop;
};

static void forever_run(struct kvc_task *task)
{
	struct forever *forever = kvc_container_of(task, struct forever, task);

	forever->runs++;
	if (!forever->stop)
		kvc_loop_defer(loop, task);
}

static void forever_fired(struct kvc_timer *timer)
{
	kvc_container_of(timer, struct forever, timer)->stop = true;
}

/* A task that defers itself for ever leaves room for timers. */
static void test_defer_does_not_starve(void **state)
{
	struct forever forever = {.task = {.run = forever_run}, .timer = {.fire = forever_fired}};

	(void)state;
	kvc_loop_defer(loop, &forever.task);
	assert_int_equal(kvc_timer_start(loop, &forever.timer, 2), KVC_OK);
	assert_true(kvc_test_run_until_set(loop, &forever.stop));
	if (forever.task.queued) /* else a turn would wait for something to happen */
		kvc_loop_turn(loop);
	assert_false(forever.task.queued);
	assert_true(forever.runs > 1);
}

/* --- posts ------------------------------------------------------------------------------------- */

enum { POSTERS = 4, POSTS = 2000 };

struct poster {
	pthread_t thread;
	struct kvc_task tasks[POSTS];
};

static uint32_t posts_run;

static void post_run(struct kvc_task *task)
{
	(void)task;
	posts_run++;
}

static void *poster_main(void *context)
{
	struct poster *poster = context;

	for (int i = 0; i < POSTS; i++) {
		poster->tasks[i].run = post_run;
		kvc_loop_post(loop, &poster->tasks[i]);
	}
	return NULL;
}

static bool all_posts_run(void *context)
{
	(void)context;
	return posts_run == POSTERS * POSTS;
}

static void test_post_from_threads(void **state)
{
	static struct poster posters[POSTERS];

	(void)state;
	posts_run = 0;
	for (int i = 0; i < POSTERS; i++)
		assert_int_equal(pthread_create(&posters[i].thread, NULL, poster_main, &posters[i]), 0);
	assert_true(kvc_test_run_until(loop, all_posts_run, NULL, 120000));
	for (int i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
}

/* --- timers ------------------------------------------------------------------------------------ */

enum { TIMERS = 1000 };

struct shot {
	struct kvc_timer timer;
	bool fired;
};

static struct shot shots[TIMERS];
static uint32_t shots_fired;
static uint64_t last_due_ms;

static void shot_fired(struct kvc_timer *timer)
{
	struct shot *shot = kvc_container_of(timer, struct shot, timer);

	assert_false(shot->fired);
	assert_true(timer->due_ms >= last_due_ms);
	assert_true(kvc_loop_now_ms(loop) >= timer->due_ms);
	last_due_ms = timer->due_ms;
	shot->fired = true;
	shots_fired++;
}

static bool half_fired(void *context)
{
	(void)context;
	return shots_fired == TIMERS / 2;
}

/* More than the heap holds at first, random delays, every other one stopped again. */
static void test_timers_fire_in_order(void **state)
{
	unsigned seed = (unsigned)getpid();

	(void)state;
	print_message("seed %u\n", seed);
	shots_fired = 0;
	last_due_ms = 0;
	for (int i = 0; i < TIMERS; i++) {
		shots[i] = (struct shot){.timer = {.fire = shot_fired}};
		assert_int_equal(kvc_timer_start(loop, &shots[i].timer, (uint64_t)rand_r(&seed) % 40),
		                 KVC_OK);
	}
	for (int i = 0; i < TIMERS; i += 2)
		kvc_timer_stop(&shots[i].timer);
	assert_true(kvc_test_run_until(loop, half_fired, NULL, 120000));
	for (int i = 0; i < TIMERS; i++)
		assert_int_equal(shots[i].fired, i % 2);
}

static void test_timer_restart_moves_it(void **state)
{
	struct shot shot = {.timer = {.fire = shot_fired}};

	(void)state;
	last_due_ms = 0;
	kvc_timer_stop(&shot.timer); /* stopped already */
	assert_int_equal(kvc_timer_start(loop, &shot.timer, 1000000), KVC_OK);
	assert_int_equal(kvc_timer_start(loop, &shot.timer, 0), KVC_OK);
	assert_true(kvc_test_run_until_set(loop, &shot.fired));
}

static void test_timer_without_memory(void **state)
{
	uint32_t started = 0;

	(void)state;
	kvc_alloc_fail_at(1, 1);
	while (started < TIMERS) {
		shots[started] = (struct shot){.timer = {.fire = shot_fired}};
		if (kvc_timer_start(loop, &shots[started].timer, 100000))
			break;
		started++;
	}
	kvc_alloc_fail_at(0, 0);
	assert_true(started > 0 && started < TIMERS);
	while (started)
		kvc_timer_stop(&shots[--started].timer);
}

/* --- watches ----------------------------------------------------------------------------------- */

struct pipe_end {
	int fds[2];
	struct kvc_watch *watch;
	bool readable;
};

static void end_ready(void *context, bool readable, bool writable)
{
	struct pipe_end *end = context;

	assert_true(readable);
	assert_false(writable);
	end->readable = true;
	kvc_watch_close(end->watch);
	close(end->fds[0]);
}

/* Closed, with its descriptor, inside its own callback. */
static void test_watch_closed_in_callback(void **state)
{
	struct pipe_end end = {.readable = false};

	(void)state;
	assert_int_equal(pipe(end.fds), 0);
	assert_int_equal(kvc_watch_open(loop, end.fds[0], end_ready, &end, &end.watch), KVC_OK);
	kvc_watch_set(end.watch, true, false);
	assert_int_equal(write(end.fds[1], "x", 1), 1);
	assert_true(kvc_test_run_until_set(loop, &end.readable));
	close(end.fds[1]);
}

struct rival {
	int fds[2];
	struct kvc_watch *watch;
	struct rival *other;
	bool called;
};

static uint32_t rivals_called;

static void rival_ready(void *context, bool readable, bool writable)
{
	struct rival *rival = context;

	(void)readable;
	(void)writable;
	rival->called = true;
	rivals_called++;
	kvc_watch_close(rival->other->watch);
	close(rival->other->fds[0]);
	kvc_watch_set(rival->watch, false, false);
}

static bool both_called(void *context)
{
	(void)context;
	return rivals_called == 2;
}

/* Both are ready in the same turn; whichever comes first closes the other, which then must not be called. */
static void test_watch_closed_while_ready(void **state)
{
	struct rival rivals[2] = {{.called = false}, {.called = false}};

	(void)state;
	rivals_called = 0;
	for (int i = 0; i < 2; i++) {
		rivals[i].other = &rivals[1 - i];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, rivals[i].fds), 0);
		assert_int_equal(
		        kvc_watch_open(loop, rivals[i].fds[0], rival_ready, &rivals[i], &rivals[i].watch),
		        KVC_OK);
		kvc_watch_set(rivals[i].watch, true, false);
		assert_int_equal(write(rivals[i].fds[1], "x", 1), 1);
	}
	assert_false(kvc_test_run_until(loop, both_called, NULL, 20));
	assert_int_equal(rivals_called, 1);
	for (int i = 0; i < 2; i++) {
		close(rivals[i].fds[1]);
		if (!rivals[i].called)
			continue;
		kvc_watch_close(rivals[i].watch);
		close(rivals[i].fds[0]);
	}
}

static void test_watch_refuses_files(void **state)
{
	char name[] = "/tmp/kvc-test-XXXXXX";
	struct kvc_watch *watch;
	int fd = mkstemp(name);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(kvc_watch_open(loop, fd, end_ready, NULL, &watch), KVC_INVALID);
	unlink(name);
	close(fd);
}

/* --- signals ----------------------------------------------------------------------------------- */

static bool signal_seen;

static void on_signal(void *context, int number)
{
	(void)context;
	assert_int_equal(number, SIGUSR1);
	signal_seen = true;
}

static void test_signal(void **state)
{
	(void)state;
	assert_int_equal(kvc_loop_on_signal(loop, SIGUSR1, on_signal, NULL), KVC_OK);
	assert_int_equal(kvc_loop_on_signal(loop, SIGKILL, on_signal, NULL), KVC_INVALID);
	raise(SIGUSR1);
	assert_true(kvc_test_run_until_set(loop, &signal_seen));
}

/* --- memory ------------------------------------------------------------------------------------ */

static void test_open_without_memory(void **state)
{
	struct kvc_loop *other = NULL;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_loop_open(&other), KVC_NO_MEMORY);
	}
	kvc_alloc_fail_at(0, 0);
	assert_null(other);
}

#define LOOP_TEST(test) cmocka_unit_test_setup_teardown(test, open_loop, close_loop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        LOOP_TEST(test_defer_keeps_order_and_runs_in_one_turn),
	        LOOP_TEST(test_defer_does_not_starve),
	        LOOP_TEST(test_post_from_threads),
	        LOOP_TEST(test_timers_fire_in_order),
	        LOOP_TEST(test_timer_restart_moves_it),
	        LOOP_TEST(test_timer_without_memory),
	        LOOP_TEST(test_watch_closed_in_callback),
	        LOOP_TEST(test_watch_closed_while_ready),
	        LOOP_TEST(test_watch_refuses_files),
	        LOOP_TEST(test_signal),
	        cmocka_unit_test(test_open_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
