/* The engine process over the fake device: forged handles, regions and pools that do not fit, workers that
 * never come to their mark, a device that fails, messages that cannot be, and how the process ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/engine_jobs.h"

static struct prng prng;

/* --- regions and pools --- */

static void test_regions(void **state)
{
	struct kvc_engine_rig rig;
	struct kvc_engine_rig_memory memory, forged;
	uint64_t size = 1 << 20;
	struct kvc_gpu_header header = {.type = KVC_GPU_UNIMPORT, .id = 77};

	(void)state;
	kvc_engine_rig_init(&rig, KVC_TEST_ARENA_BYTES);
	kvc_engine_rig_run(&rig);
	kvc_engine_rig_alloc(&rig, size, &memory);
	forged = memory;
	memset(forged.handle, 0, sizeof forged.handle);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &forged, 0, size), KVC_INVALID);
	for (unsigned i = 0; i < sizeof forged.handle; i++)
		forged.handle[i] = (uint8_t)prng_next(&prng);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &forged, 0, size), KVC_INVALID);
	forged = memory;
	forged.handle[56]++;
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &forged, 0, size), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 0, size + 1), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 1, size), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, UINT64_MAX, 2), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 0, 0), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 4096, size - 4096), KVC_OK);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 0, size), KVC_CONFLICT);
	kvc_engine_rig_send(&rig, &header, sizeof header, NULL, 0);
	assert_int_equal(kvc_engine_rig_reply(&rig, KVC_GPU_UNIMPORT, 77), KVC_UNKNOWN_ID);
	kvc_engine_rig_free(&memory);
	kvc_engine_rig_close(&rig);
}

static int chunk_make(uint64_t bytes)
{
	int fd = memfd_create("chunk", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

static kvc_status chunks_import(struct kvc_engine_rig *rig, const int *fds, uint32_t sent, uint32_t said,
                                uint64_t chunk_bytes, uint64_t bytes)
{
	struct kvc_gpu_import import = {
	        .header = {.type = KVC_GPU_IMPORT, .id = 6}, .bytes = bytes, .chunks = said};

	for (uint32_t i = 0; i < said; i++)
		import.chunk_bytes[i] = chunk_bytes;
	kvc_engine_rig_send(rig, &import, sizeof import, fds, sent);
	return kvc_engine_rig_reply(rig, KVC_GPU_IMPORT, 6);
}

static void test_chunks(void **state)
{
	struct kvc_engine_rig rig;
	int fds[KVC_GPU_CHUNKS_MAX];
	uint64_t size = 64 << 10;
	struct kvc_gpu_header header = {.type = KVC_GPU_UNIMPORT, .id = 6};

	(void)state;
	kvc_engine_rig_init(&rig, KVC_TEST_ARENA_BYTES);
	kvc_engine_rig_run(&rig);
	for (unsigned i = 0; i < KVC_GPU_CHUNKS_MAX; i++)
		fds[i] = chunk_make(size);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, 2 * size, 2 * size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, size, 2 * size + 1), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, UINT64_MAX, size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, 0, 0), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 1, 2, size, 2 * size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 3, 2, size, 2 * size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, &rig.socket, 1, 1, size, size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, KVC_GPU_CHUNKS_MAX, KVC_GPU_CHUNKS_MAX, size,
	                               KVC_GPU_CHUNKS_MAX * size),
	                 KVC_OK);
	kvc_engine_rig_send(&rig, &header, sizeof header, NULL, 0);
	assert_int_equal(kvc_engine_rig_reply(&rig, KVC_GPU_UNIMPORT, 6), KVC_OK);
	for (unsigned i = 0; i < KVC_GPU_CHUNKS_MAX; i++)
		close(fds[i]);
	kvc_engine_rig_close(&rig);
}

static kvc_status pool_wish(struct kvc_test_fixture *fixture, const struct kvc_gpu_pool_geometry *geometry,
                            const struct kvc_gpu_base *bases, uint32_t id, int marks_fd, uint32_t marks)
{
	struct {
		struct kvc_gpu_pool pool;
		struct kvc_gpu_base bases[KVC_TEST_REGIONS_MAX];
	} message = {.pool.header = {.type = KVC_GPU_POOL_OPEN, .id = id}, .pool.geometry = *geometry};
	uint32_t count = geometry->layers * (geometry->value_dim ? 2 : 1);

	message.pool.marks = marks;
	memcpy(message.bases, bases, count * sizeof bases[0]);
	kvc_engine_rig_send(&fixture->rig, &message, sizeof message.pool + count * sizeof bases[0], &marks_fd,
	                    marks_fd >= 0);
	return kvc_engine_rig_reply(&fixture->rig, KVC_GPU_POOL_OPEN, id);
}

static void test_pools_refused(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_gpu_base bases[4];
	struct kvc_gpu_pool_geometry right, wrong;
	int fd;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	right = fixture.pool.geometry;
	memcpy(bases, fixture.pool.bases, sizeof bases);
	assert_int_equal(pool_wish(&fixture, &right, bases, 1, -1, 0), KVC_CONFLICT);
	bases[3].offset += 2; /* by two bytes out of the region */
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, -1, 0), KVC_SHAPE);
	bases[3].offset = UINT64_MAX - 1;
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, -1, 0), KVC_SHAPE);
	bases[3] = fixture.pool.bases[3];
	bases[0].offset -= 1; /* elements of two bytes */
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, -1, 0), KVC_SHAPE);
	bases[0].region = 99;
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, -1, 0), KVC_UNKNOWN_ID);
	bases[0] = fixture.pool.bases[0];
	wrong = right;
	wrong.pages++;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, -1, 0), KVC_SHAPE);
	wrong.pages = 1ull << 60;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, -1, 0), KVC_SHAPE);
	wrong.pages = 0;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, -1, 0), KVC_SHAPE);
	wrong = right;
	wrong.dtype = 9;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, -1, 0), KVC_SHAPE);
	(void)kvc_engine_rig_marks(4, &fd);
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, -1, 4), KVC_INVALID);
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, fd, 0), KVC_INVALID);
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, fd, 5), KVC_INVALID);
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, fd, KVC_GPU_MARKS_MAX + 1), KVC_INVALID);
	close(fd);
	assert_int_equal(kvc_test_one(
	                         &(struct kvc_engine_test_pool){
	                                 .rig = &fixture.rig, .id = 5, .plan = fixture.pool.plan},
	                         KVC_ENGINE_ENCODE, &fixture.blocks[0], 0, 1 << 20, KVC_GPU_NOWHERE, NULL),
	                 KVC_UNKNOWN_ID);
	kvc_test_still_serves(&fixture, 0);
	kvc_test_fixture_close(&fixture);
}

static void header_send(struct kvc_test_fixture *fixture, uint32_t type, uint32_t id)
{
	kvc_engine_rig_send(&fixture->rig, &(struct kvc_gpu_header){.type = type, .id = id},
	                    sizeof(struct kvc_gpu_header), NULL, 0);
}

/* The close of a region that comes before those of its pools is answered after the last of them: until then
 * they work, and no other pool may lie there. */
static void test_region_closed_before_its_pools(void **state)
{
	struct kvc_test_fixture fixture;
	uint32_t region;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	region = fixture.pool.first_region;
	assert_int_equal(pool_wish(&fixture, &fixture.pool.geometry, fixture.pool.bases, 2, -1, 0), KVC_OK);
	header_send(&fixture, KVC_GPU_UNIMPORT, region);
	assert_int_equal(pool_wish(&fixture, &fixture.pool.geometry, fixture.pool.bases, 3, -1, 0),
	                 KVC_UNKNOWN_ID);
	header_send(&fixture, KVC_GPU_UNIMPORT, region);
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_UNIMPORT, region), KVC_UNKNOWN_ID);
	header_send(&fixture, KVC_GPU_POOL_CLOSE, 2);
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_POOL_CLOSE, 2), KVC_OK);
	kvc_test_still_serves(&fixture, 0);
	header_send(&fixture, KVC_GPU_POOL_CLOSE, fixture.pool.id);
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_POOL_CLOSE, fixture.pool.id), KVC_OK);
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_UNIMPORT, region), KVC_OK);
	assert_int_equal(kvc_engine_rig_import(&fixture.rig, region, &fixture.pool.regions[0], 0, 4096),
	                 KVC_OK);
	kvc_test_fixture_drop(&fixture);
}

/* Every table that there is, and again after they were given back. */
static void test_many_pools(void **state)
{
	struct kvc_test_fixture fixture;
	uint32_t opened = 0;
	kvc_status status = KVC_OK;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	for (unsigned round = 0; round < 2; round++) {
		for (opened = 0; status == KVC_OK; opened++)
			status = pool_wish(&fixture, &fixture.pool.geometry, fixture.pool.bases, 100 + opened,
			                   -1, 0);
		assert_int_equal(status, KVC_LIMIT);
		assert_int_equal(opened, 256); /* one is the fixture's */
		for (status = KVC_OK, opened--; opened; opened--) {
			struct kvc_gpu_header header = {.type = KVC_GPU_POOL_CLOSE, .id = 99 + opened};

			kvc_engine_rig_send(&fixture.rig, &header, sizeof header, NULL, 0);
			assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_POOL_CLOSE, header.id),
			                 KVC_OK);
		}
	}
	kvc_test_still_serves(&fixture, 3);
	kvc_test_fixture_close(&fixture);
}

/* --- the worker's mark --- */

static void test_gate(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_engine_test_pool other;
	_Atomic uint32_t *words;
	int fd;
	struct kvc_test_orders orders;
	struct {
		struct kvc_gpu_header header;
		uint64_t seqs[2];
	} cancel = {{KVC_GPU_CANCEL, 2}, {0, UINT64_MAX}};

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, KVC_TEST_ARENA_BYTES);
	words = kvc_engine_rig_marks(1, &fd);
	kvc_test_fixture_open_with(&fixture, fd, &prng);
	close(fd);
	kvc_test_still_serves(&fixture, 0);
	fixture.pool.mark.value++;
	kvc_test_orders_init(&orders, &fixture.pool);
	kvc_test_orders_add(&orders, &fixture.blocks[1], 1 << 20, 1 << 20, KVC_GPU_NOWHERE);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	/* Another pool is not held up: its answers come first. */
	other = fixture.pool;
	assert_int_equal(pool_wish(&fixture, &other.geometry, other.bases, 2, -1, 0), KVC_OK);
	other.id = 2;
	other.mark.place = 0;
	assert_int_equal(kvc_test_one(&other, KVC_ENGINE_ENCODE, &fixture.blocks[2], 2 << 20, 1 << 20,
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_OK);
	atomic_store(&words[0], fixture.pool.mark.value);
	assert_true(kvc_test_orders_await(&orders));
	kvc_test_orders_all(&orders, KVC_OK);
	/* Who cancels waits no longer; numbers that are not known are nothing. */
	fixture.pool.mark.value++;
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	cancel.seqs[0] = orders.jobs[0].seq;
	kvc_engine_rig_send(&fixture.rig, &cancel, sizeof cancel, NULL, 0);
	assert_true(kvc_test_orders_await(&orders));
	kvc_test_orders_all(&orders, KVC_CANCELLED);
	/* Closing waits for what is under way. */
	fixture.pool.mark.value++;
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	kvc_engine_rig_send(&fixture.rig, &(struct kvc_gpu_header){.type = KVC_GPU_POOL_CLOSE, .id = 1},
	                    sizeof(struct kvc_gpu_header), NULL, 0);
	assert_int_equal(kvc_test_one(&other, KVC_ENGINE_ENCODE, &fixture.blocks[2], 2 << 20, 1 << 20,
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_OK);
	/* A worker that never comes to its mark. */
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_POOL_CLOSE, 1), KVC_OK);
	assert_true(kvc_test_orders_await(&orders));
	kvc_test_orders_all(&orders, KVC_DEADLINE);
	kvc_test_fixture_drop(&fixture);
}

static void results_next(struct kvc_engine_rig *rig, uint32_t count, kvc_status status)
{
	const struct kvc_gpu_header *header = (const void *)rig->packet;
	const struct kvc_gpu_result *results = (const void *)(header + 1);

	assert_int_equal(kvc_engine_rig_receive(rig), sizeof *header + count * sizeof *results);
	assert_int_equal(header->type, KVC_GPU_DONE);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(results[i].status, status);
}

/* Blocks of several requests may travel in one message: who cancels some of it ends no others. */
static void test_cancel_of_a_part(void **state)
{
	struct kvc_test_fixture fixture;
	_Atomic uint32_t *words;
	int fd;
	struct kvc_test_orders orders;
	struct {
		struct kvc_gpu_header header;
		uint64_t seqs[3];
	} cancel = {.header = {KVC_GPU_CANCEL, 3}};

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, KVC_TEST_ARENA_BYTES);
	words = kvc_engine_rig_marks(1, &fd);
	kvc_test_fixture_open_with(&fixture, fd, &prng);
	close(fd);
	fixture.pool.mark.value++;
	kvc_test_orders_init(&orders, &fixture.pool);
	for (uint32_t i = 0; i < 3; i++)
		kvc_test_orders_add(&orders, &fixture.blocks[i], i << 20, 1 << 20, KVC_GPU_NOWHERE);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 3);
	cancel.seqs[0] = cancel.seqs[1] = orders.jobs[2].seq;
	cancel.seqs[2] = orders.jobs[0].seq;
	kvc_engine_rig_send(&fixture.rig, &cancel, sizeof cancel, NULL, 0);
	results_next(&fixture.rig, 2, KVC_CANCELLED);
	atomic_store(&words[0], fixture.pool.mark.value);
	results_next(&fixture.rig, 1, KVC_OK);
	/* All of it. */
	fixture.pool.mark.value++;
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 2);
	cancel.seqs[0] = cancel.seqs[1] = orders.jobs[1].seq;
	kvc_engine_rig_send(&fixture.rig, &cancel, sizeof cancel, NULL, 0);
	results_next(&fixture.rig, 2, KVC_CANCELLED);
	/* What is left when the worker does not come. */
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 2);
	cancel.header.id = 1;
	kvc_engine_rig_send(&fixture.rig, &cancel, sizeof cancel - 16, NULL, 0);
	results_next(&fixture.rig, 1, KVC_CANCELLED);
	results_next(&fixture.rig, 1, KVC_DEADLINE);
	atomic_store(&words[0], fixture.pool.mark.value);
	kvc_test_fixture_close(&fixture);
}

/* --- batches --- */

/* Many jobs while the device is slow: few launches. */
static void test_merge(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_test_orders orders;
	struct kvc_gpu_gauges gauges = {0};
	uint64_t slot;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	slot = kvc_test_slot(&fixture.pool.plan);
	kvc_engine_rig_fault(&fixture.rig, "delay 200");
	kvc_test_orders_init(&orders, &fixture.pool);
	for (unsigned i = 0; i < KVC_TEST_ORDERS_MAX; i++)
		kvc_test_orders_add(&orders, &fixture.blocks[i % 4], i * slot, slot, KVC_GPU_NOWHERE);
	for (unsigned i = 0; i < KVC_TEST_ORDERS_MAX; i++)
		kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, i, 1);
	assert_true(kvc_test_orders_await(&orders));
	kvc_test_orders_all(&orders, KVC_OK);
	while (gauges.launched_blocks < KVC_TEST_ORDERS_MAX) {
		assert_true(recv(fixture.rig.socket, &gauges, sizeof gauges, 0) == sizeof gauges);
		assert_int_equal(gauges.header.type, KVC_GPU_GAUGES);
	}
	assert_int_equal(gauges.launched_blocks, KVC_TEST_ORDERS_MAX);
	assert_in_range(gauges.launches, 1, 8);
	kvc_test_fixture_close(&fixture);
}

/* --- how it ends --- */

static void test_closed_under_way(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_test_orders orders;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	kvc_engine_rig_fault(&fixture.rig, "hang 0");
	kvc_test_orders_init(&orders, &fixture.pool);
	kvc_test_orders_add(&orders, &fixture.blocks[0], 0, 1 << 20, KVC_GPU_NOWHERE);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	kvc_test_fixture_drop(&fixture); /* checks that it ends with 0 */
}

static void test_illegal_address(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_test_orders orders;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	kvc_test_still_serves(&fixture, 0);
	kvc_engine_rig_fault(&fixture.rig, "illegal-address 2");
	kvc_test_orders_init(&orders, &fixture.pool);
	kvc_test_orders_add(&orders, &fixture.blocks[0], 0, 1 << 20, KVC_GPU_NOWHERE);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	assert_false(kvc_test_orders_await(&orders));
	assert_int_equal(kvc_engine_rig_ended(&fixture.rig), 3);
	close(fixture.rig.socket);
	/* The next one is well. */
	kvc_engine_test_pool_free(&fixture.pool);
	free(fixture.image);
	kvc_test_fixture_open_with(&fixture, -1, &prng);
	kvc_test_still_serves(&fixture, 0);
	kvc_test_fixture_close(&fixture);
}

/* A copy that fails and does not stick: its batch fails, nothing else. */
static void test_copy_error(void **state)
{
	struct kvc_test_fixture fixture;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	for (unsigned i = 0; i < 3; i++) {
		kvc_engine_rig_fault(&fixture.rig, "copy-error 0");
		assert_int_equal(kvc_test_one(&fixture.pool, i & 1 ? KVC_ENGINE_LOWER : KVC_ENGINE_ENCODE,
		                              &fixture.blocks[0], 0, 1 << 20, i & 1 ? 0 : KVC_GPU_NOWHERE,
		                              NULL),
		                 KVC_INTERNAL);
		kvc_test_still_serves(&fixture, i);
	}
	kvc_test_fixture_close(&fixture);
}

static void start_fails(const char *fault, const struct kvc_gpu_start *start, size_t bytes, bool arena,
                        kvc_status status)
{
	struct kvc_engine_rig rig;
	struct kvc_gpu_failed failed;

	kvc_engine_rig_init(&rig, KVC_TEST_ARENA_BYTES);
	if (fault)
		kvc_engine_rig_fault(&rig, fault);
	kvc_engine_rig_spawn(&rig);
	kvc_engine_rig_send(&rig, start ? start : &rig.start, bytes, &rig.arena_fd, arena);
	assert_int_equal(kvc_engine_rig_receive(&rig), sizeof failed);
	memcpy(&failed, rig.packet, sizeof failed);
	assert_int_equal(failed.header.type, KVC_GPU_FAILED);
	assert_int_equal(failed.status, status);
	assert_true(failed.detail[0] != 0);
	assert_int_equal(kvc_engine_rig_receive(&rig), 0);
	assert_int_equal(kvc_engine_rig_ended(&rig), 1);
	kvc_engine_rig_close(&rig);
}

static void test_start_fails(void **state)
{
	struct kvc_gpu_start right = {.header.type = KVC_GPU_START,
	                              .wire = KVC_GPU_WIRE,
	                              .vram_bytes = 1 << 20,
	                              .staging_bytes = 64 << 20,
	                              .arena_bytes = KVC_TEST_ARENA_BYTES};
	struct kvc_gpu_start wrong = right;

	(void)state;
	start_fails("no-device", NULL, sizeof right, true, KVC_UNSUPPORTED);
	start_fails("alloc-fails", NULL, sizeof right, true, KVC_NO_MEMORY);
	start_fails(NULL, &right, sizeof right - 8, true, KVC_VERSION);
	start_fails(NULL, &right, sizeof right, false, KVC_BAD_MESSAGE);
	wrong.wire++;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_VERSION);
	wrong = right;
	wrong.header.type = KVC_GPU_JOBS;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_VERSION);
	wrong = right;
	wrong.arena_bytes++;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_INVALID);
	wrong = right;
	wrong.vram_bytes = 1ull << 50;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_NO_MEMORY);
	wrong = right;
	wrong.staging_bytes = 1000;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_INVALID);
	wrong = right;
	wrong.ordinal = 1000;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_UNSUPPORTED);
}

/* What the core cannot have meant ends the engine, at once and with its own exit status. */
static void malformed(const void *packet, size_t bytes)
{
	struct kvc_engine_rig rig;

	kvc_engine_rig_init(&rig, 1 << 20);
	kvc_engine_rig_run(&rig);
	kvc_engine_rig_send(&rig, packet, bytes, NULL, 0);
	assert_int_equal(kvc_engine_rig_receive(&rig), 0);
	assert_int_equal(kvc_engine_rig_ended(&rig), 2);
	kvc_engine_rig_close(&rig);
}

static void test_malformed(void **state)
{
	static uint64_t big[KVC_GPU_MESSAGE_BYTES / 8 + 1];
	struct kvc_gpu_header header = {.type = 55};
	struct {
		struct kvc_gpu_jobs jobs;
		struct kvc_gpu_job job;
	} jobs = {.jobs = {.header.type = KVC_GPU_JOBS, .op = KVC_ENGINE_ENCODE, .count = 1}};
	struct kvc_gpu_import import = {.header.type = KVC_GPU_IMPORT, .chunks = KVC_GPU_CHUNKS_MAX + 1};
	struct kvc_gpu_pool pool = {.header.type = KVC_GPU_POOL_OPEN, .geometry.layers = 1};

	(void)state;
	malformed(&header, sizeof header);
	malformed(&header, 4);
	header.type = KVC_GPU_START;
	malformed(&header, sizeof header);
	header.type = KVC_GPU_UNIMPORT;
	malformed(&header, sizeof header - 1);
	header.type = KVC_GPU_POOL_CLOSE;
	malformed(&header, sizeof header - 1);
	malformed(&import, sizeof import);
	malformed(&import, sizeof import - 8);
	malformed(&pool, sizeof pool);
	malformed(&pool, 20);
	malformed(&jobs, sizeof jobs.jobs - 4);
	malformed(&jobs, sizeof jobs.jobs);
	jobs.job.page_count = 1;
	malformed(&jobs, sizeof jobs);
	jobs.job.page_count = KVC_GPU_PAGES_MAX + 1;
	malformed(&jobs, sizeof jobs);
	jobs.job.page_count = 0;
	jobs.jobs.count = UINT32_MAX;
	malformed(&jobs, sizeof jobs);
	jobs.jobs.count = 0;
	malformed(&jobs, sizeof jobs.jobs);
	jobs.jobs.count = 1;
	jobs.jobs.op = KVC_ENGINE_VERIFY;
	malformed(&jobs, sizeof jobs);
	big[0] = KVC_GPU_JOBS;
	malformed(big, sizeof big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_regions),
	        cmocka_unit_test(test_chunks),
	        cmocka_unit_test(test_pools_refused),
	        cmocka_unit_test(test_region_closed_before_its_pools),
	        cmocka_unit_test(test_many_pools),
	        cmocka_unit_test(test_gate),
	        cmocka_unit_test(test_cancel_of_a_part),
	        cmocka_unit_test(test_merge),
	        cmocka_unit_test(test_closed_under_way),
	        cmocka_unit_test(test_illegal_address),
	        cmocka_unit_test(test_copy_error),
	        cmocka_unit_test(test_start_fails),
	        cmocka_unit_test(test_malformed),
	};

	prng.state = prng_seed("test_gpu_engine_faults");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
