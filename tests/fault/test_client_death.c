/* Clients that die in the middle of a session: at every byte of every frame, and by SIGKILL at every frame
 * boundary. Nothing half-written may become visible to another client, and when they are gone, so is all that
 * the daemon held for them: descriptors, memory. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/raw_session.h"
#include "tests/support/row.h"
#include "tests/support/server.h"

#define SETTLE_MS 20000u

enum parting { CLOSE_AT_ONCE, CLOSE_AFTER_REPLIES, CLOSE_ONE_SIDE };

struct world {
	struct kvc_server server;
	struct kvc_sample_space space;
	struct kvc_client *observer;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint64_t next_id;
	uint64_t verified;
	uint64_t visible;
	unsigned descriptors; /* with the observer alone */
	double used_bytes;
	double region_bytes;
};

static void open_server(struct kvc_server *server)
{
	assert_true(kvc_server_init(server));
	kvc_server_use_agent(server);
	kvc_server_arg(server, "--ram", "16M");
	kvc_server_arg(server, "--threads", "2");
	assert_true(kvc_server_start(server));
	assert_true(kvc_server_ready(server, 30000 * kvc_server_patience()));
}

static void observer_open(struct world *w)
{
	assert_int_equal(kvc_server_client(&w->server, 20000, &w->observer), KVC_OK);
	assert_int_equal(kvc_namespace_open(w->observer, &w->space.options, 0, &w->ns), KVC_OK);
	assert_int_equal(kvc_memory_create(w->observer, 65536, &w->memory), KVC_OK);
}

/* The daemon is looked at when nobody else is there. */
static void row_end(struct world *w)
{
	kvc_client_destroy(w->observer);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	observer_open(w);
	kvc_row_end_here();
}

static int world_open(void **state)
{
	struct world *w = calloc(1, sizeof *w);

	assert_non_null(w);
	*state = w;
	raw_space_init(&w->space);
	open_server(&w->server);
	observer_open(w);
	w->next_id = 1;
	return 0;
}

static int world_close(void **state)
{
	struct world *w = *state;

	kvc_client_destroy(w->observer);
	assert_true(kvc_server_stop(&w->server, 20000 * kvc_server_patience()));
	kvc_server_remove(&w->server);
	free(w);
	return 0;
}

/* ---- what others see ----------------------------------------------------------------------- */

static void drop_one(struct world *w, uint64_t id)
{
	uint8_t bytes[KVC_SAMPLE_KEY_BYTES];
	struct kvc_key key = {.data = bytes, .bytes = sizeof bytes};
	size_t done;

	kvc_sample_key(id, bytes);
	assert_int_equal(kvc_drop(w->ns, &key, 1, 0, &done), KVC_OK);
}

/* A block is exact or not there; one whose put did not arrive is not there, one whose put was answered is. */
static void check_block(struct world *w, uint64_t id, bool arrived, bool answered)
{
	uint8_t key[KVC_SAMPLE_KEY_BYTES];
	uint8_t expected[1024];
	uint8_t *data = kvc_memory_data(w->memory);
	struct kvc_transfer transfer;
	struct kvc_block block;

	kvc_transfer_init(&transfer, w->memory);
	kvc_sample_block(&w->space, id, 0, key, &block);
	memset(data, 0xEE, sizeof expected);
	assert_int_equal(kvc_get(w->ns, &transfer, &block, 1, NULL), KVC_OK);
	w->verified++;
	if (block.status == KVC_MISS) {
		assert_false(answered);
		return;
	}
	assert_int_equal(block.status, KVC_OK);
	assert_true(arrived);
	w->visible++;
	kvc_sample_source(&w->space, id, expected);
	assert_true(kvc_sample_restore(&w->space, id, expected, expected));
	assert_memory_equal(expected, data, kvc_sample_bytes(&w->space, id));
	kvc_row.verified++;
}

static void check_session(struct world *w, const struct raw_session *session, size_t cut, bool answered)
{
	unsigned puts = raw_session_puts(session, cut);

	for (unsigned i = 0; i < RAW_BLOCKS; i++)
		check_block(w, session->ids[i], i < puts, answered && i < puts);
}

/* ---- baseline ------------------------------------------------------------------------------ */

static bool is_settled(struct world *w)
{
	return kvc_server_stat(w->observer, "rpc.connections") == 1 &&
	       kvc_server_stat(w->observer, "rpc.region_bytes") == w->region_bytes &&
	       kvc_server_stat(w->observer, "rpc.inline_bytes") == 0 &&
	       kvc_server_stat(w->observer, "rpc.inflight") == 0 &&
	       kvc_server_descriptors(&w->server) == w->descriptors &&
	       kvc_server_stat(w->observer, "ram.used_bytes") == w->used_bytes;
}

static void baseline_take(struct world *w)
{
	size_t prefix;
	uint8_t bytes[KVC_SAMPLE_KEY_BYTES];
	struct kvc_key key = {.data = bytes, .bytes = sizeof bytes};
	uint64_t end = kvc_server_now_ms() + SETTLE_MS;

	/* The namespace and region must be attached, and earlier clients gone. */
	kvc_sample_key(0, bytes);
	assert_int_equal(kvc_lookup(w->ns, &key, 1, 0, &prefix, NULL), KVC_OK);
	check_block(w, 0, false, false);
	while (kvc_server_stat(w->observer, "rpc.connections") != 1) {
		assert_true(kvc_server_now_ms() < end);
		kvc_server_step();
	}
	w->descriptors = kvc_server_descriptors(&w->server);
	w->used_bytes = kvc_server_stat(w->observer, "ram.used_bytes");
	w->region_bytes = kvc_server_stat(w->observer, "rpc.region_bytes");
	assert_true(w->descriptors > 0 && w->used_bytes >= 0 && w->region_bytes > 0);
}

static void baseline_expect(struct world *w, uint64_t first_id)
{
	uint64_t end = kvc_server_now_ms() + SETTLE_MS;

	for (uint64_t id = first_id; id < w->next_id; id++)
		drop_one(w, id);
	while (!is_settled(w)) {
		if (kvc_server_now_ms() > end) {
			fail_msg("not back at the baseline: connections %g, region bytes %g (%g), inline "
			         "bytes %g, "
			         "in flight %g, descriptors %u (%u), RAM used %g (%g)",
			         kvc_server_stat(w->observer, "rpc.connections"),
			         kvc_server_stat(w->observer, "rpc.region_bytes"), w->region_bytes,
			         kvc_server_stat(w->observer, "rpc.inline_bytes"),
			         kvc_server_stat(w->observer, "rpc.inflight"),
			         kvc_server_descriptors(&w->server), w->descriptors,
			         kvc_server_stat(w->observer, "ram.used_bytes"), w->used_bytes);
		}
		kvc_server_step();
	}
}

/* ---- cuts ---------------------------------------------------------------------------------- */

static void part(const struct raw_session *session, int fd, size_t cut, enum parting how)
{
	char byte;

	if (how == CLOSE_AFTER_REPLIES)
		assert_true(raw_session_await(session, fd, cut, 20000 * kvc_server_patience()));
	if (how == CLOSE_ONE_SIDE) {
		shutdown(fd, SHUT_WR);
		while (recv(fd, &byte, 1, 0) > 0)
			continue;
	}
	close(fd);
}

/* One session that ends after `cut` bytes. */
static void cut_one(struct world *w, size_t cut, enum parting how)
{
	struct raw_session session;
	int fd = raw_connect(w->server.socket);

	assert_true(fd >= 0);
	raw_session_open(&session, &w->space, w->next_id);
	w->next_id += RAW_BLOCKS;
	assert_true(raw_session_send(&session, fd, cut));
	part(&session, fd, cut, how);
	check_session(w, &session, cut, how == CLOSE_AFTER_REPLIES);
	raw_session_close(&session);
	kvc_row.injected++;
	kvc_row.points++;
}

static size_t session_length(const struct world *w)
{
	struct raw_session session;
	size_t length;

	raw_session_open(&session, &w->space, 0);
	length = session.length;
	raw_session_close(&session);
	return length;
}

static void sweep(struct world *w, enum parting how)
{
	size_t length = session_length(w);
	uint64_t first = w->next_id;

	baseline_take(w);
	w->visible = 0;
	for (size_t cut = 0; cut <= length; cut++)
		cut_one(w, cut, how);
	kvc_row.points_total += length + 1;
	/* Again, now that the daemon has certainly seen each end. */
	for (size_t cut = 0; cut <= length; cut++) {
		struct raw_session session;

		raw_session_open(&session, &w->space, first + cut * RAW_BLOCKS);
		check_session(w, &session, cut, how == CLOSE_AFTER_REPLIES);
		raw_session_close(&session);
	}
	assert_true(w->visible > 0 || how == CLOSE_AT_ONCE);
	baseline_expect(w, first);
	print_message("# %zu cuts, %llu reads, %llu of them of blocks that arrived\n", length + 1,
	              (unsigned long long)w->verified, (unsigned long long)w->visible);
}

static void cut_at_every_byte(void **state)
{
	KVC_ROW("D1");
	sweep(*state, CLOSE_AT_ONCE);
	row_end(*state);
}

static void cut_at_every_byte_after_replies(void **state)
{
	KVC_ROW("D1 D2");
	sweep(*state, CLOSE_AFTER_REPLIES);
	row_end(*state);
}

static void half_closed_at_every_byte(void **state)
{
	KVC_ROW("D1");
	sweep(*state, CLOSE_ONE_SIDE);
	row_end(*state);
}

/* ---- processes ----------------------------------------------------------------------------- */

static _Noreturn void die_at(const struct world *w, const struct raw_session *session, unsigned frames,
                             bool after_replies)
{
	size_t cut = raw_session_boundary(session, frames);
	int fd = raw_connect(w->server.socket);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fd < 0 || !raw_session_send(session, fd, cut) ||
	    (after_replies && !raw_session_await(session, fd, cut, 20000)))
		_exit(1);
	raise(SIGKILL);
	_exit(1);
}

static void killed_at_every_frame(void **state)
{
	struct world *w = *state;
	uint64_t first = w->next_id;

	KVC_ROW("D2 D3");
	baseline_take(w);
	for (unsigned i = 0; i <= 2 * RAW_FRAMES + 1; i++) {
		unsigned frames = i / 2;
		bool after_replies = i % 2;
		struct raw_session session;
		int status;
		pid_t pid;

		raw_session_open(&session, &w->space, w->next_id);
		w->next_id += RAW_BLOCKS;
		pid = fork();
		if (pid == 0)
			die_at(w, &session, frames, after_replies);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		kvc_row.injected++;
		kvc_row.points++;
		kvc_row.points_total++;
		check_session(w, &session, raw_session_boundary(&session, frames), after_replies);
		raw_session_close(&session);
	}
	baseline_expect(w, first);
	row_end(w);
}

/* ---- resident memory ----------------------------------------------------------------------- */

static void resident_memory_returns(void **state)
{
	struct world *w = *state;
	uint64_t before;
	uint64_t after;

	KVC_ROW("D1");
	if (kvc_server_patience() > 1) {
		print_message("# a sanitizer keeps freed memory\n");
		skip();
	}
	sweep(w, CLOSE_AT_ONCE);
	before = kvc_server_resident_bytes(&w->server);
	sweep(w, CLOSE_AT_ONCE);
	sweep(w, CLOSE_ONE_SIDE);
	after = kvc_server_resident_bytes(&w->server);
	print_message("# resident bytes %llu, then %llu\n", (unsigned long long)before,
	              (unsigned long long)after);
	assert_true(before > 0);
	assert_true(after <= before + before / 100);
	row_end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(cut_at_every_byte),
	        cmocka_unit_test(cut_at_every_byte_after_replies),
	        cmocka_unit_test(half_closed_at_every_byte),
	        cmocka_unit_test(killed_at_every_frame),
	        cmocka_unit_test(resident_memory_returns),
	};

	return cmocka_run_group_tests(tests, world_open, world_close);
}
