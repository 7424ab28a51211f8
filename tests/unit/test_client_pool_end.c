/* Pools of device memory in the client library when the daemon does not let go of them at once: it hangs, or
 * has a connection that this side gave up; and when the driver fails at their marks. Over the fake CUDA
 * driver and a fake daemon. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "tests/support/client_fixture.h"
#include "tests/support/fake_cuda.h"

/* Destroys do not wait long here; all else may. */
enum { DESTROY_MS = 200, LONG_MS = 20000 };

static struct fixture f;
static char device_folder[KVC_TEMP_DIR_BYTES];

struct rig {
	struct kvc_test_pool memory;
	struct kvc_namespace *ns;
	struct kvc_pool *pool;
};

static int group_setup(void **state)
{
	(void)state;
	kvc_test_temp_dir(device_folder);
	(void)kvc_test_cuda_open(device_folder);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	assert_int_equal(kvc_test_cuda_files(device_folder, "mem-"), 0);
	kvc_test_temp_dir_remove(device_folder);
	return 0;
}

static int setup(void **state)
{
	struct kvc_client_options options;

	(void)state;
	fixture_open_empty(&f);
	fixture_start_daemon(&f, NULL);
	kvc_client_destroy(f.client);
	kvc_client_options_init(&options);
	options.socket_path = f.path;
	options.deadline_ms = DESTROY_MS;
	assert_int_equal(kvc_client_create(&options, &f.client), KVC_OK);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fixture_close(&f);
	return 0;
}

static kvc_status rig_try(struct rig *rig)
{
	struct kvc_namespace_options shape;
	struct kvc_pool_options options;

	*rig = (struct rig){.memory = {.layers = 3, .heads = 2, .dim = 16, .page_tokens = 4, .pages = 4}};
	kvc_test_pool_make(&rig->memory, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	kvc_namespace_options_init(&shape);
	shape.model = "pool";
	shape.layers = rig->memory.layers;
	shape.heads = rig->memory.heads;
	shape.key_dim = shape.value_dim = rig->memory.dim;
	shape.element = KVC_ELEMENT_BF16;
	assert_int_equal(kvc_namespace_open(f.client, &shape, LONG_MS, &rig->ns), KVC_OK);
	options = kvc_test_pool_options(&rig->memory);
	options.deadline_ms = LONG_MS;
	return kvc_pool_register(rig->ns, &options, &rig->pool);
}

static void rig_open(struct rig *rig)
{
	assert_int_equal(rig_try(rig), KVC_OK);
}

static kvc_status put(struct rig *rig, uint64_t key)
{
	uint32_t page = 0;
	struct kvc_block block = {
	        .key = &key, .key_bytes = sizeof(key), .tokens = 4, .pages = &page, .page_count = 1};
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, NULL);
	transfer.pool = rig->pool;
	transfer.deadline_ms = LONG_MS;
	return kvc_put(rig->ns, &transfer, &block, 1, NULL);
}

/* Until the daemon, which does now, has let go. */
static void destroy_at_last(struct rig *rig)
{
	kvc_status status;

	do
		status = kvc_pool_destroy(rig->pool);
	while (status == KVC_DEADLINE);
	assert_int_equal(status, KVC_OK);
	kvc_namespace_close(rig->ns);
	kvc_test_pool_free(&rig->memory);
}

static void destroy_of_a_hanging_daemon_can_be_repeated(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig);
	fake_daemon_rule(f.daemon, KVC_VERB_DETACH, (struct fake_rule){.action = FAKE_HOLD, .times = 4});
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(kvc_pool_destroy(rig.pool), KVC_DEADLINE);
		assert_non_null(strstr(kvc_last_error(), "Do not free the memory"));
		assert_int_equal(put(&rig, 1), KVC_INVALID);
	}
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_DETACH), 4);
	fake_daemon_release(f.daemon);
	destroy_at_last(&rig);
}

/* What is not let go yet is the client's to free. */
static void client_destroy_after_a_destroy_that_was_too_late(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig);
	fake_daemon_rule(f.daemon, KVC_VERB_DETACH, (struct fake_rule){.action = FAKE_HOLD, .times = 4});
	assert_int_equal(kvc_pool_destroy(rig.pool), KVC_DEADLINE);
	kvc_client_destroy(f.client);
	f.client = NULL;
	kvc_test_pool_free(&rig.memory);
}

/* A header that says it is no reply. */
static const uint8_t no_reply[KVC_FRAME_HEADER_BYTES] = {0};
static const struct fake_rule breach = {
        .action = FAKE_RAW, .bytes = no_reply, .length = sizeof(no_reply), .times = 1};

/* The daemon, which is at work on the pool, broke the protocol: this side gives the connection up and is put
 * through by a new one, but the daemon has the memory until it has closed the old one. */
static void destroy_waits_for_connections_given_up(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig);
	fake_daemon_linger(f.daemon);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, breach);
	assert_int_equal(put(&rig, 1), KVC_DISCONNECTED);
	assert_int_equal(put(&rig, 1), KVC_FENCED);
	assert_int_equal(kvc_ping(f.client, LONG_MS), KVC_OK);
	assert_int_equal(kvc_pool_destroy(rig.pool), KVC_DEADLINE);
	assert_int_equal(fake_daemon_connections(f.daemon), 2);
	fake_daemon_release(f.daemon);
	destroy_at_last(&rig);
	assert_int_equal(fake_daemon_connections(f.daemon), 1);
}

/* A pool cannot be renewed as memory can: its fence falls with the connection. */
static void fence_falls_when_the_connection_given_up_is_over(void **state)
{
	kvc_status status;
	struct rig rig;

	(void)state;
	rig_open(&rig);
	fake_daemon_linger(f.daemon);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, breach);
	assert_int_equal(put(&rig, 1), KVC_DISCONNECTED);
	assert_int_equal(put(&rig, 1), KVC_FENCED);
	fake_daemon_release(f.daemon);
	while ((status = put(&rig, 1)) == KVC_FENCED)
		continue;
	assert_int_equal(status, KVC_OK);
	destroy_at_last(&rig);
}

static void connections_given_up_are_few(void **state)
{
	kvc_status status;
	struct rig rig;

	(void)state;
	rig_open(&rig);
	fake_daemon_linger(f.daemon);
	for (uint64_t i = 1; i <= 4; i++) {
		assert_int_equal(put(&rig, i), KVC_OK);
		fake_daemon_rule(f.daemon, KVC_VERB_PING, breach);
		assert_int_equal(kvc_ping(f.client, LONG_MS), KVC_DISCONNECTED);
	}
	assert_int_equal(kvc_ping(f.client, LONG_MS), KVC_UNAVAILABLE);
	assert_non_null(strstr(kvc_last_error(), "has not ended 4 connections"));
	fake_daemon_release(f.daemon);
	do
		status = put(&rig, 5);
	while (status == KVC_UNAVAILABLE);
	assert_int_equal(status, KVC_OK);
	destroy_at_last(&rig);
}

/* errno of the next sendmsg; 0: none. The fake daemon uses send. */
static _Atomic int send_error;

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	ssize_t (*real)(int, const struct msghdr *, int);
	int error = atomic_exchange(&send_error, 0);

	if (error) {
		errno = error;
		return -1;
	}
	*(void **)&real = dlsym(RTLD_NEXT, "sendmsg");
	return real(fd, message, flags);
}

static void *long_ping(void *data)
{
	(void)data;
	return (void *)(intptr_t)kvc_ping(f.client, 3600000);
}

/* The connection is given up by one thread while another waits for it: that one goes on at once. */
static void given_up_while_another_thread_waits(void **state)
{
	pthread_t thread;
	struct rig rig;
	void *waited;

	(void)state;
	rig_open(&rig);
	fake_daemon_linger(f.daemon);
	fake_daemon_rule(f.daemon, KVC_VERB_PING, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_int_equal(pthread_create(&thread, NULL, long_ping, NULL), 0);
	fake_daemon_await(f.daemon, KVC_VERB_PING, 1);
	atomic_store(&send_error, ETOOMANYREFS);
	assert_int_equal(put(&rig, 1), KVC_OK); /* by a new connection */
	assert_int_equal(pthread_join(thread, &waited), 0);
	assert_int_equal((kvc_status)(intptr_t)waited, KVC_DISCONNECTED);
	assert_int_equal(kvc_pool_destroy(rig.pool), KVC_DEADLINE);
	fake_daemon_release(f.daemon);
	destroy_at_last(&rig);
}

/* ---- marks --------------------------------------------------------------------------------------- */

/* Mappings of shared memory, here and in the fake daemon, which keeps what it was given. */
static unsigned shared_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned count = 0;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "memfd:") != NULL;
	(void)fclose(maps);
	return count;
}

static unsigned descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* Each call of the driver that marks need fails once at a registration: it says so and leaves nothing. */
static void registration_whose_marks_fail(void **state)
{
	static const struct {
		const char *function;
		const char *told;
	} rows[] = {
	        {"cuMemHostRegister_v2", "cannot register the marks"},
	        {"cuMemHostGetDevicePointer_v2", "cannot find the marks"},
	        {"cuStreamCreate", "cannot make a stream"},
	        {"cuStreamWriteValue32_v2", "streams of this GPU cannot write the marks"},
	        {"cuStreamSynchronize", "streams of this GPU cannot write the marks"},
	        {"cuEventCreate", "cannot make an event"},
	};
	struct rig rig;

	(void)state;
	rig_open(&rig); /* what is there from then on is there before */
	destroy_at_last(&rig);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned mappings = shared_mappings();
		unsigned open = descriptors();

		kvc_test_cuda_fail(rows[i].function);
		assert_int_not_equal(rig_try(&rig), KVC_OK);
		assert_non_null(strstr(kvc_last_error(), rows[i].told));
		kvc_test_cuda_fail(NULL);
		kvc_namespace_close(rig.ns);
		kvc_test_pool_free(&rig.memory);
		assert_int_equal(shared_mappings(), mappings);
		assert_int_equal(descriptors(), open);
	}
}

/* And at a put: it fails, nothing is sent, and the next one works. */
static void put_whose_mark_fails(void **state)
{
	static const char *const functions[] = {"cuStreamWaitEvent", "cuStreamWriteValue32_v2",
	                                        "cuEventRecord"};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		unsigned seen = fake_daemon_seen(f.daemon, KVC_VERB_PUT);

		kvc_test_cuda_fail(functions[i]);
		assert_int_not_equal(put(&rig, i), KVC_OK);
		assert_non_null(strstr(kvc_last_error(), "cannot mark the transfer"));
		kvc_test_cuda_fail(NULL);
		assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_PUT), seen);
		assert_int_equal(put(&rig, i), KVC_OK);
	}
	destroy_at_last(&rig);
}

/* A stream that has yet to write a mark must find it, also when the pool is no more. */
static void destroy_leaves_marks_that_are_to_be_written(void **state)
{
	unsigned before, usual;
	struct rig rig;

	(void)state;
	before = shared_mappings();
	rig_open(&rig);
	destroy_at_last(&rig);
	usual = shared_mappings() - before;
	rig_open(&rig);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_DEADLINE, .times = 1});
	kvc_test_cuda_stall(true);
	assert_int_equal(put(&rig, 1), KVC_DEADLINE);
	kvc_test_cuda_stall(false);
	destroy_at_last(&rig);
	assert_int_equal(shared_mappings(), before + 2 * usual + 1);
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(destroy_of_a_hanging_daemon_can_be_repeated),
	        ROW(client_destroy_after_a_destroy_that_was_too_late),
	        ROW(destroy_waits_for_connections_given_up),
	        ROW(fence_falls_when_the_connection_given_up_is_over),
	        ROW(connections_given_up_are_few),
	        ROW(given_up_while_another_thread_waits),
	        ROW(registration_whose_marks_fail),
	        ROW(put_whose_mark_fails),
	        ROW(destroy_leaves_marks_that_are_to_be_written),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
