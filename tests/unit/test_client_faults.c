/* The client library when things go wrong: no daemon, its death at every byte, silence, late answers, answers
 * that break the protocol, and refusals. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/client_fixture.h"

#define assert_ok(call)               expect_status(call, KVC_OK, #call, __LINE__)
#define assert_status(call, expected) expect_status(call, expected, #call, __LINE__)

static void expect_status(kvc_status status, kvc_status expected, const char *what, int line)
{
	if (status != expected)
		fail_msg("line %d: %s: %s, expected %s: %s", line, what, kvc_status_name(status),
		         kvc_status_name(expected), kvc_last_error());
}

static void assert_told(const char *part)
{
	if (!strstr(kvc_last_error(), part))
		fail_msg("'%s' is not in: %s", part, kvc_last_error());
}

static uint64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- no daemon ----------------------------------------------------------------------------- */

static void test_no_daemon(void **state)
{
	struct fixture f;

	(void)state;
	fixture_open_empty(&f);
	assert_status(kvc_ping(f.client, 0), KVC_UNAVAILABLE);
	assert_told(f.path);
	assert_told("start kvcellard");
	assert_told("KVCELLAR_SOCKET");
	fixture_start_daemon(&f, NULL);
	assert_ok(kvc_ping(f.client, 0));
	fixture_close(&f);
}

static void test_no_listener(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	struct fixture f;

	(void)state;
	fixture_open_empty(&f);
	memcpy(address.sun_path, f.path, strlen(f.path) + 1);
	assert_int_equal(bind(s, (const struct sockaddr *)&address, sizeof(address)), 0);
	(void)close(s); /* the path is left, as after a crash */
	assert_status(kvc_ping(f.client, 0), KVC_UNAVAILABLE);
	assert_told("start kvcellard");
	(void)unlink(f.path);
	fixture_close(&f);
}

static void test_no_access(void **state)
{
	struct fixture f;
	uid_t user = geteuid();

	(void)state;
	fixture_open_empty(&f);
	fixture_start_daemon(&f, NULL);
	assert_int_equal(chmod(f.path, 0), 0);
	if (user == 0)
		assert_int_equal(seteuid(65534), 0);
	assert_status(kvc_ping(f.client, 0), KVC_ACCESS);
	assert_told(f.path);
	assert_int_equal(seteuid(user), 0);
	fixture_close(&f);
}

/* A daemon that does not accept: the kernel's queue of connections is full. */
static void test_not_accepting(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	struct kvc_client_options options;
	struct kvc_client *more;
	struct fixture f;

	(void)state;
	fixture_open_empty(&f);
	memcpy(address.sun_path, f.path, strlen(f.path) + 1);
	assert_int_equal(bind(listener, (const struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 0), 0);
	assert_status(kvc_ping(f.client, 20), KVC_DEADLINE); /* connected, but nobody is there */
	kvc_client_options_init(&options);
	options.socket_path = f.path;
	assert_ok(kvc_client_create(&options, &more));
	assert_status(kvc_ping(more, 20), KVC_UNAVAILABLE);
	assert_told("does not accept");
	kvc_client_destroy(more);
	(void)close(listener);
	(void)unlink(f.path);
	fixture_close(&f);
}

/* ---- death --------------------------------------------------------------------------------- */

/* The connection ends after each number of bytes of the answer to `verb`, and `call` must fail by that and
 * work again at once. Returns how many bytes the answer has. */
static size_t cut_everywhere(struct fixture *f, uint16_t verb, kvc_status (*call)(struct fixture *f))
{
	size_t cut = 0;

	for (;; cut++) {
		kvc_status status;

		if (verb == KVC_VERB_HELLO)
			fake_daemon_disconnect(f->daemon);
		fake_daemon_rule(f->daemon, verb,
		                 (struct fake_rule){.action = FAKE_CUT, .number = cut, .times = 1});
		status = call(f);
		if (status == KVC_OK)
			break;
		assert_status(status, KVC_DISCONNECTED);
		if (verb == KVC_VERB_HELLO)
			assert_told("this user may not be allowed (allow-uids, allow-gids)");
		assert_ok(call(f));
		assert_true(cut < 4096);
	}
	fake_daemon_rule(f->daemon, verb, (struct fake_rule){.action = FAKE_ANSWER});
	return cut;
}

static kvc_status do_ping(struct fixture *f)
{
	return kvc_ping(f->client, 0);
}

static kvc_status do_get(struct fixture *f)
{
	kvc_status status;

	fixture_clear(f->memory);
	status = fixture_get(f, 3, 0, 0);
	if (status == KVC_OK)
		fixture_expect(f->memory, 3, 0);
	return status;
}

static kvc_status do_put(struct fixture *f)
{
	return fixture_put(f, 3, 0, 0);
}

static kvc_status do_inline_get(struct fixture *f)
{
	uint8_t data[FIXTURE_BLOCK];
	struct kvc_transfer transfer;
	struct kvc_block block;
	kvc_status status;
	uint64_t key;

	kvc_transfer_init(&transfer, NULL);
	fixture_blocks(&block, &key, 1, 1);
	status = kvc_get_inline(f->ns, &transfer, &block, 1, data, sizeof(data), NULL);
	if (status == KVC_OK)
		status = block.status;
	assert_int_equal(block.status, status);
	for (size_t i = 0; status == KVC_OK && i < sizeof(data); i++)
		assert_int_equal(data[i], fixture_byte(1, i));
	return status;
}

static kvc_status do_lookup(struct fixture *f)
{
	uint64_t number = 1;
	struct kvc_key key = {&number, sizeof(number)};
	size_t prefix = 9;
	kvc_status status = kvc_lookup(f->ns, &key, 1, 0, &prefix, NULL);

	assert_int_equal(prefix, status == KVC_OK ? 1 : 9);
	return status;
}

static void test_cut(void **state)
{
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	assert_true(cut_everywhere(&f, KVC_VERB_HELLO, do_ping) > 32);
	assert_int_equal(cut_everywhere(&f, KVC_VERB_PING, do_ping), 32);
	assert_true(cut_everywhere(&f, KVC_VERB_GET, do_get) > 32);
	assert_true(cut_everywhere(&f, KVC_VERB_PUT, do_put) > 32);
	assert_true(cut_everywhere(&f, KVC_VERB_LOOKUP, do_lookup) > 32);
	assert_true(cut_everywhere(&f, KVC_VERB_GET, do_inline_get) > 32 + FIXTURE_BLOCK);
	fixture_close(&f);
}

static void test_restart(void **state)
{
	struct kvc_daemon_info info = {.size = sizeof(info)};
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	fixture_stop_daemon(&f);
	assert_status(fixture_get(&f, 1, 0, 0), KVC_UNAVAILABLE);
	fixture_start_daemon(&f, NULL);
	assert_ok(do_put(&f)); /* namespace and memory are set up again */
	assert_ok(do_get(&f));
	fixture_stop_daemon(&f);
	fixture_start_daemon(&f, NULL);
	assert_ok(do_put(&f)); /* restarted while nobody looked: nothing of it shows */
	assert_ok(kvc_client_info(f.client, &info, 0));
	assert_int_equal(info.connects, 3);
	fixture_close(&f);
}

/* All that is pending fails at once, not at its deadline; the descriptor becomes readable. */
static void test_death_with_pending(void **state)
{
	enum { COUNT = 50 };
	struct kvc_completion completions[COUNT];
	struct pollfd polled = {.events = POLLIN};
	struct kvc_key key = {"x", 1};
	uint64_t start = now_ms();
	size_t taken = 0;
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	polled.fd = kvc_client_fd(f.client);
	fake_daemon_rule(f.daemon, KVC_VERB_LOOKUP, (struct fake_rule){.action = FAKE_HOLD});
	for (size_t i = 0; i < COUNT; i++)
		assert_ok(kvc_lookup_submit(f.ns, &key, 1, 0, NULL, &key));
	fake_daemon_await(f.daemon, KVC_VERB_LOOKUP, COUNT);
	assert_int_equal(poll(&polled, 1, 0), 0);
	fake_daemon_rule(f.daemon, KVC_VERB_PING, (struct fake_rule){.action = FAKE_CLOSE});
	assert_status(kvc_ping(f.client, 0), KVC_DISCONNECTED);
	assert_int_equal(poll(&polled, 1, 0), 1);
	while (taken < COUNT) {
		size_t n = 0;

		assert_ok(kvc_client_next(f.client, completions, COUNT, 0, &n));
		for (size_t i = 0; i < n; i++)
			assert_int_equal(completions[i].status, KVC_DISCONNECTED);
		assert_true(n > 0);
		taken += n;
	}
	assert_told("the next call reconnects");
	assert_int_equal(poll(&polled, 1, 0), 0);
	assert_true(now_ms() - start < 10000);
	fixture_close(&f);
}

/* Sync callers in several threads, all of which must get away at once. */
static void *hanging_ping(void *data)
{
	return (void *)(intptr_t)kvc_ping(((struct fixture *)data)->client, 0);
}

static void test_death_with_threads(void **state)
{
	enum { COUNT = 8 };
	pthread_t threads[COUNT];
	uint64_t start = now_ms();
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	fake_daemon_rule(f.daemon, KVC_VERB_PING, (struct fake_rule){.action = FAKE_HOLD});
	for (size_t i = 0; i < COUNT; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hanging_ping, &f), 0);
	fake_daemon_await(f.daemon, KVC_VERB_PING, COUNT);
	fake_daemon_rule(f.daemon, KVC_VERB_STATS, (struct fake_rule){.action = FAKE_CLOSE});
	{
		struct kvc_stat *stats;
		size_t count;

		assert_status(kvc_stats(f.client, 0, &stats, &count), KVC_DISCONNECTED);
	}
	for (size_t i = 0; i < COUNT; i++) {
		void *result;

		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_int_equal((intptr_t)result, KVC_DISCONNECTED);
	}
	assert_true(now_ms() - start < 10000);
	fixture_close(&f);
}

/* ---- silence ------------------------------------------------------------------------------- */

static void test_silent_get(void **state)
{
	struct fixture f;
	uint64_t start;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	fixture_clear(f.memory);
	fake_daemon_rule(f.daemon, KVC_VERB_GET, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	start = now_ms();
	assert_status(fixture_get(&f, 3, 0, 30), KVC_DEADLINE);
	assert_true(now_ms() - start >= 30 + 250 && now_ms() - start < 5000);
	assert_told("30 ms");
	assert_status(fixture_get(&f, 3, 0, 0), KVC_FENCED);
	assert_told("kvc_memory_renew");
	assert_ok(kvc_ping(f.client, 0)); /* only the memory is fenced */
	fake_daemon_release(f.daemon);    /* the late answer is on its way before the next ping's */
	assert_ok(kvc_ping(f.client, 0));
	assert_ok(do_get(&f));
	fixture_close(&f);
}

static void test_renew(void **state)
{
	struct fixture f;
	void *data;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	data = kvc_memory_data(f.memory);
	fake_daemon_rule(f.daemon, KVC_VERB_GET, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_status(fixture_get(&f, 3, 0, 20), KVC_DEADLINE);
	assert_ok(kvc_memory_renew(f.memory));
	assert_ptr_equal(kvc_memory_data(f.memory), data);
	fixture_fill(f.memory, 3, 500);
	assert_ok(fixture_get(&f, 1, 0, 0)); /* works beside the unanswered one */
	fixture_fill(f.memory, 3, 500);
	fake_daemon_release(f.daemon); /* writes now, into the old pages */
	assert_ok(kvc_ping(f.client, 0));
	fixture_expect(f.memory, 3, 500);
	fake_daemon_await(f.daemon, KVC_VERB_DETACH, 1);
	fixture_close(&f);
}

static void test_renew_in_use(void **state)
{
	struct kvc_completion completion;
	struct kvc_transfer transfer;
	struct kvc_block block;
	struct fixture f;
	uint64_t key;
	size_t n;

	(void)state;
	fixture_open(&f, NULL);
	fixture_blocks(&block, &key, 1, 0);
	kvc_transfer_init(&transfer, f.memory);
	fake_daemon_rule(f.daemon, KVC_VERB_GET, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_ok(kvc_get_submit(f.ns, &transfer, &block, 1, NULL));
	assert_status(kvc_memory_renew(f.memory), KVC_IN_USE);
	fake_daemon_await(f.daemon, KVC_VERB_GET, 1);
	fake_daemon_release(f.daemon);
	assert_ok(kvc_client_next(f.client, &completion, 1, 10000, &n));
	assert_int_equal(n, 1);
	assert_ok(kvc_memory_renew(f.memory));
	fixture_close(&f);
}

/* A put that is carried out after its caller has given up reads whatever is there then. It must not stay. */
static void test_late_put(void **state)
{
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(fixture_put(&f, 1, 900, 0)); /* stays */
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_status(fixture_put(&f, 3, 0, 20), KVC_DEADLINE);
	fixture_fill(f.memory, 3, 500); /* not what belongs to keys 0 to 2 */
	assert_status(fixture_put(&f, 3, 0, 0), KVC_FENCED);
	fake_daemon_release(f.daemon);
	assert_int_equal(fake_daemon_blocks(f.daemon), 4); /* stored, and wrong */
	assert_ok(kvc_ping(f.client, 0));                  /* reads the late answer, sends the drop */
	fake_daemon_await(f.daemon, KVC_VERB_DROP, 1);
	assert_ok(kvc_ping(f.client, 0)); /* reads the drop's */
	assert_int_equal(fake_daemon_blocks(f.daemon), 1);
	assert_ok(do_put(&f));
	assert_ok(do_get(&f));
	fixture_close(&f);
}

/* The drop is refused again and again: the memory stays fenced, for good but for renewing it. */
static void test_late_put_not_dropped(void **state)
{
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	fake_daemon_rule(f.daemon, KVC_VERB_DROP,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_BUSY});
	assert_status(fixture_put(&f, 3, 0, 20), KVC_DEADLINE);
	fake_daemon_release(f.daemon);
	for (unsigned tries = 1; tries <= 3; tries++) {
		assert_ok(kvc_ping(f.client, 0));
		fake_daemon_await(f.daemon, KVC_VERB_DROP, tries);
	}
	assert_ok(kvc_ping(f.client, 0));
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_DROP), 3);
	assert_status(fixture_get(&f, 3, 0, 0), KVC_FENCED);
	assert_ok(kvc_memory_renew(f.memory));
	assert_int_equal(fixture_get(&f, 1, 77, 0), KVC_MISS);
	fixture_close(&f);
}

/* The daemon's end answers for all requests it will never answer: nothing of it writes any more. */
static void test_death_lifts_fence(void **state)
{
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	fake_daemon_rule(f.daemon, KVC_VERB_GET, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_status(fixture_get(&f, 1, 0, 20), KVC_DEADLINE);
	assert_status(fixture_get(&f, 1, 0, 0), KVC_FENCED);
	fake_daemon_rule(f.daemon, KVC_VERB_PING, (struct fake_rule){.action = FAKE_CLOSE, .times = 1});
	assert_status(kvc_ping(f.client, 0), KVC_DISCONNECTED);
	assert_ok(do_get(&f));
	fixture_close(&f);
}

/* Nothing is read any more: the socket fills, what never left expires without a trace, queues are bounded. */
static void test_frozen(void **state)
{
	enum { BATCH = 1000 };
	struct kvc_completion completions[64];
	struct kvc_key *keys = calloc(BATCH, sizeof(*keys));
	uint8_t long_key[KVC_KEY_BYTES_MAX] = {1};
	size_t submitted = 0;
	size_t taken = 0;
	struct fixture f;
	kvc_status status;

	(void)state;
	for (size_t i = 0; i < BATCH; i++)
		keys[i] = (struct kvc_key){long_key, 60};
	fixture_open(&f, NULL);
	fake_daemon_rule(f.daemon, KVC_VERB_LOOKUP, (struct fake_rule){.action = FAKE_FREEZE, .times = 1});
	while ((status = kvc_lookup_submit(f.ns, keys, BATCH, 50, NULL, NULL)) == KVC_OK)
		submitted++;
	assert_status(status, KVC_BUSY);
	assert_in_range(submitted, 10, 256);
	while (taken < submitted) {
		size_t n = 0;

		assert_ok(kvc_client_next(f.client, completions, 64, 10000, &n));
		assert_true(n > 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(completions[i].status, KVC_DEADLINE);
		taken += n;
	}
	assert_status(kvc_ping(f.client, 20), KVC_DEADLINE);
	fake_daemon_release(f.daemon);
	assert_ok(kvc_ping(f.client, 0)); /* late answers of others come before it */
	assert_true(fake_daemon_seen(f.daemon, KVC_VERB_LOOKUP) < submitted);
	fixture_close(&f);
	free(keys);
}

/* Unanswered requests are remembered, and that is bounded too. */
static void test_unanswered_are_bounded(void **state)
{
	const struct fake_limits limits = {.batch = 8, .inflight = 20, .inline_bytes = 1};
	struct fixture f;
	unsigned deadlines = 0;
	kvc_status status;

	(void)state;
	fixture_open(&f, &limits);
	fake_daemon_rule(f.daemon, KVC_VERB_PING, (struct fake_rule){.action = FAKE_HOLD});
	while ((status = kvc_ping(f.client, 1)) == KVC_DEADLINE)
		deadlines++;
	assert_status(status, KVC_BUSY);
	assert_int_equal(deadlines, 20 - 8);
	fixture_close(&f);
}

/* A connection takes hello, open, attach and a request at a time. */
static void test_too_few_in_flight(void **state)
{
	const struct fake_limits limits = {.batch = 8, .inflight = 3, .inline_bytes = 1};
	const struct fake_limits enough = {.batch = 8, .inflight = 4, .inline_bytes = 1};
	struct fixture f;

	(void)state;
	fixture_open(&f, &enough);
	for (int i = 0; i < 2; i++) {
		fixture_stop_daemon(&f);
		fixture_start_daemon(&f, &limits);
		assert_status(fixture_put(&f, 1, 0, 0), KVC_UNSUPPORTED);
		assert_told("allows 3 unanswered requests, expected at least 4");
		fixture_stop_daemon(&f);
		fixture_start_daemon(&f, &enough);
		assert_ok(fixture_put(&f, 1, 0, 0));
	}
	fixture_close(&f);
}

/* ---- answers that break the protocol -------------------------------------------------------- */

struct bad_reply {
	const char *what;
	uint16_t verb;          /* of the request */
	struct kvc_frame frame; /* request_id 0: the right one */
	const char *body;
	const char *told;
};

#define REPLY(v, s, n)                                                                  \
	{                                                                               \
		.verb = (v), .flags = KVC_FRAME_REPLY, .status = (s), .body_bytes = (n) \
	}

static const struct bad_reply bad_replies[] = {
        {"a request", KVC_VERB_PING, {.verb = KVC_VERB_PING}, "", "no reply"},
        {"a descriptor", KVC_VERB_PING, {.verb = KVC_VERB_PING, .flags = 3}, "", "no reply"},
        {"unknown flags", KVC_VERB_PING, {.verb = KVC_VERB_PING, .flags = 9}, "", "unknown flag"},
        {"an unknown verb", KVC_VERB_PING, REPLY(99, 0, 0), "", "unknown verb"},
        {"another verb", KVC_VERB_PING, REPLY(KVC_VERB_STATS, 0, 0), "", "verb of another"},
        {"an unknown id", KVC_VERB_PING, {.verb = 2, .flags = 1, .request_id = 1234567}, "", "not open"},
        {"an unknown status", KVC_VERB_PING, REPLY(KVC_VERB_PING, KVC_STATUS_COUNT, 0), "", "unknown status"},
        {"a body that does not parse", KVC_VERB_PING, REPLY(KVC_VERB_PING, 0, 2), "\x0A\x7F",
         "does not parse"},
        {"a failure that does not parse", KVC_VERB_PING, REPLY(KVC_VERB_PING, KVC_BUSY, 2), "\x0A\x7F",
         "does not parse"},
        {"a payload nobody asked for",
         KVC_VERB_PING,
         {.verb = 2, .flags = 1, .payload_bytes = 1},
         "x",
         "payload"},
        {"a huge payload",
         KVC_VERB_PING,
         {.verb = 2, .flags = 1, .payload_bytes = UINT64_MAX},
         "",
         "payload"},
        {"a huge body", KVC_VERB_PING, REPLY(KVC_VERB_PING, 0, UINT32_MAX), "", "64 KiB"},
        {"no tiers", KVC_VERB_LOOKUP, REPLY(KVC_VERB_LOOKUP, 0, 0), "", "number of tiers"},
        {"two tiers", KVC_VERB_LOOKUP, REPLY(KVC_VERB_LOOKUP, 0, 4), "\x12\x02\x00\x00", "number of tiers"},
        {"tier 9", KVC_VERB_LOOKUP, REPLY(KVC_VERB_LOOKUP, 0, 3), "\x12\x01\x09", "unknown tier"},
        {"a long prefix", KVC_VERB_LOOKUP, REPLY(KVC_VERB_LOOKUP, 0, 5), "\x08\x02\x12\x01\x02",
         "prefix longer"},
        {"no statuses", KVC_VERB_GET, REPLY(KVC_VERB_GET, 0, 0), "", "block statuses"},
        {"four statuses", KVC_VERB_GET, REPLY(KVC_VERB_GET, 0, 6), "\x0A\x04\x00\x00\x00\x00",
         "block statuses"},
        {"block status 99", KVC_VERB_GET, REPLY(KVC_VERB_GET, 0, 5), "\x0A\x03\x00\x00\x63", "block status"},
        {"a payload of a get by memory",
         KVC_VERB_GET,
         {.verb = 8, .flags = 1, .payload_bytes = 1},
         "x",
         "payload"},
        {"a namespace of 0 bytes", KVC_VERB_OPEN, REPLY(KVC_VERB_OPEN, 0, 0), "", "0 bytes"},
        {"a hello without limits", KVC_VERB_HELLO, REPLY(KVC_VERB_HELLO, 0, 20),
         "\x08\x01\x12\x10"
         "0123456789abcdef",
         "without limits"},
        {"a hello of version 2", KVC_VERB_HELLO, REPLY(KVC_VERB_HELLO, 0, 2), "\x08\x02", "version"},
        {"a hello without boot id", KVC_VERB_HELLO, REPLY(KVC_VERB_HELLO, 0, 2), "\x08\x01", "boot id"},
        {"a ping before the hello", KVC_VERB_HELLO, REPLY(KVC_VERB_PING, 0, 0), "", "verb of another"},
};

static kvc_status provoke(struct fixture *f, uint16_t verb)
{
	switch (verb) {
	case KVC_VERB_GET:
		return fixture_get(f, 3, 0, 0);
	case KVC_VERB_LOOKUP:
		return do_lookup(f);
	case KVC_VERB_OPEN:
		fake_daemon_disconnect(f->daemon);
		return do_lookup(f);
	case KVC_VERB_HELLO:
		fake_daemon_disconnect(f->daemon);
		/* fall through */
	default:
		return kvc_ping(f->client, 0);
	}
}

static void test_bad_replies(void **state)
{
	uint8_t bytes[128];
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	for (size_t i = 0; i < sizeof(bad_replies) / sizeof(bad_replies[0]); i++) {
		const struct bad_reply *bad = &bad_replies[i];
		size_t body = bad->frame.body_bytes < 64 ? bad->frame.body_bytes : 0;

		kvc_frame_encode(&bad->frame, bytes);
		memcpy(bytes + KVC_FRAME_HEADER_BYTES, bad->body, body);
		fake_daemon_rule(f.daemon, bad->verb,
		                 (struct fake_rule){.action = FAKE_RAW,
		                                    .bytes = bytes,
		                                    .length = KVC_FRAME_HEADER_BYTES + body,
		                                    .times = 1});
		if (provoke(&f, bad->verb) != KVC_DISCONNECTED)
			fail_msg("%s: %s", bad->what, kvc_last_error());
		assert_told("daemon sent");
		assert_told(bad->told);
		if (bad->verb == KVC_VERB_GET) { /* nobody knows what the daemon does with the memory now */
			assert_status(fixture_get(&f, 1, 0, 0), KVC_FENCED);
			assert_ok(kvc_memory_renew(f.memory));
		}
		assert_ok(do_get(&f));
	}
	fixture_close(&f);
}

/* The payload of an inline get must be as long as the blocks that are there. */
static void test_bad_payloads(void **state)
{
	static const struct {
		uint8_t status;
		uint32_t payload;
	} rows[] = {{0, 0}, {0, 10}, {0, FIXTURE_BLOCK - 1}, {0, FIXTURE_BLOCK + 1}, {KVC_MISS, 1}};
	static uint8_t bytes[KVC_FRAME_HEADER_BYTES + 3 + FIXTURE_BLOCK + 1];
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvc_frame frame = REPLY(KVC_VERB_GET, 0, 3);
		const uint8_t body[] = {0x0A, 1, rows[i].status};

		frame.payload_bytes = rows[i].payload;
		kvc_frame_encode(&frame, bytes);
		memcpy(bytes + KVC_FRAME_HEADER_BYTES, body, sizeof(body));
		fake_daemon_rule(f.daemon, KVC_VERB_GET,
		                 (struct fake_rule){.action = FAKE_RAW,
		                                    .bytes = bytes,
		                                    .length = KVC_FRAME_HEADER_BYTES + 3 + rows[i].payload,
		                                    .times = 1});
		assert_status(do_inline_get(&f), KVC_DISCONNECTED);
		assert_told("another length than its blocks");
	}
	fixture_close(&f);
}

/* Rubbish of every kind in place of an answer. Any status will do; what must not be is a crash, a hang, or
 * something that the sanitizers see. Then the client must work as before. */
static void test_random_replies(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	struct kvc_key key = {"key", 3};
	uint8_t bytes[200];
	size_t prefix;
	struct fixture f;

	(void)state;
	print_message("seed %u\n", seed);
	srand(seed);
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	for (unsigned round = 0; round < 300; round++) {
		static const uint16_t verbs[] = {KVC_VERB_PING, KVC_VERB_LOOKUP, KVC_VERB_HELLO};
		uint16_t verb = verbs[round % 3];
		size_t length = KVC_FRAME_HEADER_BYTES + (size_t)rand() % 100;
		struct kvc_frame frame =
		        REPLY(verb, (uint32_t)(rand() % 26), (uint32_t)length - KVC_FRAME_HEADER_BYTES);

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)rand();
		kvc_frame_encode(&frame, bytes);
		bytes[(size_t)rand() % 16] ^= (uint8_t)(rand() % 3 ? 0 : 1 << rand() % 8);
		fake_daemon_rule(
		        f.daemon, verb,
		        (struct fake_rule){.action = FAKE_RAW, .bytes = bytes, .length = length, .times = 1});
		if (verb == KVC_VERB_HELLO)
			fake_daemon_disconnect(f.daemon);
		if (verb == KVC_VERB_LOOKUP)
			(void)kvc_lookup(f.ns, &key, 1, 10, &prefix, NULL);
		else
			(void)kvc_ping(f.client, 10);
		fake_daemon_rule(f.daemon, verb, (struct fake_rule){.action = FAKE_ANSWER});
		fake_daemon_disconnect(f.daemon);
	}
	(void)kvc_ping(f.client, 0); /* the connection may have ended before its hello, which is told once */
	assert_ok(do_get(&f));
	fixture_close(&f);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void test_refused_set_up(void **state)
{
	const struct fake_rule quota = {.action = FAKE_FAIL, .number = KVC_QUOTA};
	const struct fake_rule honest = {.action = FAKE_ANSWER};
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(do_put(&f));
	fake_daemon_disconnect(f.daemon);
	fake_daemon_rule(f.daemon, KVC_VERB_OPEN, quota);
	assert_status(fixture_get(&f, 1, 0, 0), KVC_QUOTA);
	assert_told("open: ");
	assert_told("as the test wants it");
	fake_daemon_rule(f.daemon, KVC_VERB_OPEN, honest);
	assert_ok(do_get(&f)); /* tried again */
	fake_daemon_disconnect(f.daemon);
	fake_daemon_rule(f.daemon, KVC_VERB_ATTACH, quota);
	assert_status(fixture_get(&f, 1, 0, 0), KVC_QUOTA);
	assert_told("attach: ");
	fake_daemon_rule(f.daemon, KVC_VERB_ATTACH, honest);
	assert_ok(do_get(&f));
	fake_daemon_disconnect(f.daemon);
	fake_daemon_rule(f.daemon, KVC_VERB_HELLO,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_VERSION});
	assert_status(fixture_get(&f, 1, 0, 0), KVC_VERSION);
	assert_told("refused the connection");
	fake_daemon_rule(f.daemon, KVC_VERB_HELLO, honest);
	assert_ok(do_get(&f));
	fixture_close(&f);
}

static void test_refused_requests(void **state)
{
	struct kvc_namespace_options options;
	struct kvc_namespace *ns = NULL;
	struct kvc_stat *stats;
	struct fixture f;
	size_t count;

	(void)state;
	fixture_open(&f, NULL);
	for (unsigned verb = KVC_VERB_PING; verb < KVC_VERB_COUNT; verb++)
		fake_daemon_rule(f.daemon, (uint16_t)verb,
		                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_IO});
	assert_status(kvc_ping(f.client, 0), KVC_IO);
	assert_told("as the test wants it");
	assert_status(do_lookup(&f), KVC_IO);
	assert_status(do_inline_get(&f), KVC_IO);
	assert_status(kvc_stats(f.client, 0, &stats, &count), KVC_IO);
	fake_daemon_rule(f.daemon, KVC_VERB_ATTACH, (struct fake_rule){.action = FAKE_ANSWER});
	assert_status(fixture_put(&f, 2, 0, 0), KVC_IO);
	assert_status(fixture_get(&f, 2, 0, 0), KVC_IO);
	kvc_namespace_options_init(&options);
	options.model = "other";
	options.element = KVC_ELEMENT_FP32;
	assert_status(kvc_namespace_open(f.client, &options, 0, &ns), KVC_IO);
	assert_null(ns);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_no_daemon),
	        cmocka_unit_test(test_no_listener),
	        cmocka_unit_test(test_no_access),
	        cmocka_unit_test(test_not_accepting),
	        cmocka_unit_test(test_cut),
	        cmocka_unit_test(test_restart),
	        cmocka_unit_test(test_death_with_pending),
	        cmocka_unit_test(test_death_with_threads),
	        cmocka_unit_test(test_silent_get),
	        cmocka_unit_test(test_renew),
	        cmocka_unit_test(test_renew_in_use),
	        cmocka_unit_test(test_late_put),
	        cmocka_unit_test(test_late_put_not_dropped),
	        cmocka_unit_test(test_death_lifts_fence),
	        cmocka_unit_test(test_frozen),
	        cmocka_unit_test(test_unanswered_are_bounded),
	        cmocka_unit_test(test_too_few_in_flight),
	        cmocka_unit_test(test_bad_replies),
	        cmocka_unit_test(test_bad_payloads),
	        cmocka_unit_test(test_random_replies),
	        cmocka_unit_test(test_refused_set_up),
	        cmocka_unit_test(test_refused_requests),
	};

	return cmocka_run_group_tests_name("client_faults", tests, NULL, NULL);
}
