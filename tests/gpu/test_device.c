/* The device layer over CUDA, on a real GPU, with a second process whose memory it imports. What a driver
 * does with forged handles and wrong sizes is printed, and that nothing of it sticks is checked after each.
 *
 * TAP; ends by itself within 30 seconds. */
#include "daemon/gpu/device.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/gpu/device_worker.h"

#define MIB           (1ull << 20)
#define ARENA_BYTES   (256 * MIB)
#define POOL_LAYERS   2u
#define POOL_HEADS    8u
#define POOL_DIM      128u
#define PAGE_TOKENS   16u
#define POOL_PAGES    64u
#define KIND_BYTES    (4 * MIB) /* from the keys of a layer to its values, to the next layer's keys */
#define BLOCK_TOKENS  100u
#define BLOCK_PAGES   8u
#define ROW_BYTES     (POOL_DIM * 2u)
#define TOKEN_BYTES   (POOL_HEADS * ROW_BYTES)
#define PAGE_BYTES    (PAGE_TOKENS * TOKEN_BYTES)
#define BLOCK_FIRST   5u /* token of the first page */
#define STAGING_BYTES (16 * MIB)

static struct kvc_dev *dev;
static struct kvc_dev_stream *stream;
static struct kvc_dev_event *event;
static struct worker *worker;
static uint8_t *arena; /* a memfd's mapping: first half pinned */
static uint64_t staging;
static int tests;
static int failures;

/* --- small things --- */

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void check(bool good, const char *name)
{
	tests++;
	failures += !good;
	printf("%sok %d - %s\n", good ? "" : "not ", tests, name);
	fflush(stdout);
}

static void told(const char *what, kvc_status status)
{
	printf("# %s: %s%s%s\n", what, kvc_status_name(status), status ? ": " : "",
	       status ? kvc_dev_why() : "");
	fflush(stdout);
}

/* Wait for the stream, 20 seconds at most. */
static kvc_status finish(void)
{
	double end = now_ms() + 20e3;
	kvc_status status = kvc_dev_event_record(dev, event, stream);

	if (status == KVC_OK)
		status = kvc_dev_event_poll(dev, event);
	while (status == KVC_BUSY && now_ms() < end)
		status = kvc_dev_event_poll(dev, event);
	return status;
}

/* A copy there and back goes through, so nothing stuck. */
static bool healthy(void)
{
	uint64_t sent = (uint64_t)(unsigned)tests * 0x9E3779B97F4A7C15ull, got = 0;
	kvc_status status = kvc_dev_copy_up(dev, staging, &sent, sizeof sent, stream);

	if (status == KVC_OK)
		status = kvc_dev_copy_down(dev, &got, staging, sizeof got, stream);
	if (status == KVC_OK)
		status = finish();
	if (status)
		told("not healthy", status);
	return status == KVC_OK && got == sent && !kvc_dev_lost(dev);
}

static bool is_filled(uint64_t address, uint64_t bytes, uint32_t seed, uint64_t first)
{
	const uint16_t *got = (const uint16_t *)(void *)arena;

	if (kvc_dev_copy_down(dev, arena, address, bytes, stream) || finish())
		return false;
	for (uint64_t i = 0; i < bytes / 2; i++) {
		if (got[i] != worker_element(first + i, seed))
			return false;
	}
	return true;
}

/* --- memory of this process --- */

static void test_open(void)
{
	struct kvc_dev_info info;
	double start = now_ms();
	kvc_status status = kvc_dev_open(0, &dev, &info);

	told("open", status);
	check(status == KVC_OK, "the device opens");
	if (status)
		exit(1);
	printf("# %s, %u SMs, %.0f ms, %.0f MiB taken, uuid ", info.name, info.sms, now_ms() - start,
	       (double)kvc_dev_bytes(dev) / (double)MIB);
	for (unsigned i = 0; i < sizeof info.uuid; i++)
		printf("%02x", info.uuid[i]);
	printf("\n");
	check(kvc_dev_stream_open(dev, true, &stream) == KVC_OK &&
	              kvc_dev_event_open(dev, &event) == KVC_OK &&
	              kvc_dev_alloc(dev, STAGING_BYTES, &staging) == KVC_OK,
	      "stream, event, memory");
	check(healthy(), "a copy there and back");
}

static void test_alloc(void)
{
	uint64_t address;
	void *host;
	kvc_status status = kvc_dev_alloc(dev, 1ull << 50, &address);
	struct kvc_dev *other;
	struct kvc_dev_info info;

	told("allocate 1 PiB", status);
	check(status == KVC_NO_MEMORY && healthy(), "too much device memory");
	status = kvc_dev_host_alloc(dev, 1ull << 50, &host);
	told("allocate 1 PiB of pinned memory", status);
	check(status != KVC_OK && healthy(), "too much pinned memory");
	status = kvc_dev_open(99, &other, &info);
	told("open device 99", status);
	check(status == KVC_UNSUPPORTED && healthy(), "no such device");
}

/* --- import by handle --- */

static kvc_status try_import(const uint8_t handle[64], uint64_t offset, uint64_t bytes)
{
	struct kvc_dev_memory *memory;
	kvc_status status = kvc_dev_import(dev, handle, offset, bytes, &memory);

	if (status == KVC_OK)
		kvc_dev_unimport(dev, memory);
	return status;
}

static void test_forged(void)
{
	uint8_t handle[64] = {0};
	uint64_t state = 42;
	int accepted = 0;
	char what[64];
	kvc_status status = try_import(handle, 0, 4096);

	told("handle of zeros", status);
	check(status != KVC_OK && healthy(), "a handle of zeros");
	for (int i = 0; i < 8; i++) {
		for (unsigned b = 0; b < sizeof handle; b++)
			handle[b] = (uint8_t)((state = state * 6364136223846793005u + 1442695040888963407u) >>
			                      56);
		status = try_import(handle, 0, 4096);
		accepted += status == KVC_OK;
	}
	told("random handle", status);
	check(accepted == 0 && healthy(), "random handles");
	for (unsigned b = 0; b < sizeof handle; b++) {
		memcpy(handle, worker->pool, sizeof handle);
		handle[b] ^= 0x55;
		status = try_import(handle, 0, worker->pool_bytes);
		snprintf(what, sizeof what, "byte %u of a real handle changed", b);
		told(what, status);
		if (!healthy())
			break;
	}
	check(healthy(), "damaged handles leave nothing behind");
}

/* How large the driver says that an imported allocation is. */
static uint64_t range_of(const uint8_t handle[64], uint64_t from, uint64_t below)
{
	while (below - from > 1) {
		uint64_t middle = from + (below - from) / 2;

		if (try_import(handle, 0, middle) == KVC_OK)
			from = middle;
		else
			below = middle;
	}
	return from;
}

static void test_bounds(void)
{
	uint64_t bytes = worker->pool_bytes;
	uint64_t pool = range_of(worker->pool, 1, 4 * bytes);
	uint64_t small = range_of(worker->small, 1, 64 * MIB);

	printf("# import of %llu bytes accepts up to %llu; of %llu bytes up to %llu\n",
	       (unsigned long long)bytes, (unsigned long long)pool, (unsigned long long)worker->small_bytes,
	       (unsigned long long)small);
	check(try_import(worker->pool, 0, bytes) == KVC_OK, "the whole allocation");
	check(try_import(worker->pool, bytes - 4096, 4096) == KVC_OK, "its end");
	told("past the end", try_import(worker->pool, 0, 2 * bytes));
	check(try_import(worker->pool, 0, 2 * bytes) == KVC_INVALID && healthy(), "twice its size");
	check(try_import(worker->pool, bytes, 1) == KVC_INVALID || pool > bytes, "a byte behind it");
	check(try_import(worker->pool, UINT64_MAX - 4095, 8192) == KVC_INVALID && healthy(),
	      "offset that overflows");
	check(try_import(worker->pool, 4096, UINT64_MAX) == KVC_INVALID && healthy(), "size that overflows");
	check(pool >= bytes && small >= worker->small_bytes && healthy(), "bounds, 100 times opened");
}

static void test_twice(void)
{
	struct kvc_dev_memory *first, *second;
	kvc_status status = kvc_dev_import(dev, worker->pool, 0, worker->pool_bytes, &first);

	told("opened once", status);
	if (status) {
		check(false, "the same handle twice");
		return;
	}
	status = kvc_dev_import(dev, worker->pool, 4096, 4096, &second);
	told("opened twice", status);
	if (status == KVC_OK) {
		printf("# addresses %llx, and of what is 4096 bytes on %llx\n",
		       (unsigned long long)kvc_dev_memory_address(first),
		       (unsigned long long)kvc_dev_memory_address(second));
		kvc_dev_unimport(dev, second);
	}
	worker_fill(worker, 3, 0);
	usleep(100000);
	check(status == KVC_OK && is_filled(kvc_dev_memory_address(first), MIB, 3, 0) && healthy(),
	      "the same handle twice: closed once it is still there");
	kvc_dev_unimport(dev, first);
}

/* --- import of chunks --- */

static kvc_status try_chunks(const int *fds, uint64_t first, uint64_t second, uint64_t bytes)
{
	uint64_t sizes[WORKER_CHUNKS] = {first, second};
	struct kvc_dev_memory *memory;
	kvc_status status = kvc_dev_import_chunks(dev, fds, sizes, WORKER_CHUNKS, bytes, &memory);

	if (status == KVC_OK)
		kvc_dev_unimport(dev, memory);
	return status;
}

static void chunks_refused(const char *what, const int *fds, uint64_t first, uint64_t second, uint64_t bytes)
{
	kvc_status status = try_chunks(fds, first, second, bytes);

	told(what, status);
	check(status != KVC_OK && healthy(), what);
}

static void test_chunks_wrong(void)
{
	uint64_t size = worker->chunk_bytes;
	int memfd = memfd_create("no chunk", MFD_CLOEXEC);
	int closed[WORKER_CHUNKS] = {worker->chunks[0], -1};
	int wrong[WORKER_CHUNKS] = {worker->chunks[0], memfd};
	int pair[WORKER_CHUNKS] = {worker->chunks[0], worker->socket};

	chunks_refused("chunk larger than it is", worker->chunks, size, 2 * size, 3 * size);
	chunks_refused("chunk of no multiple of the granularity", worker->chunks, size, size - 4096, size);
	chunks_refused("chunk of a size that overflows", worker->chunks, size, UINT64_MAX - size + 1, size);
	chunks_refused("chunks smaller than the region", worker->chunks, size, size, 2 * size + 1);
	chunks_refused("chunk of no bytes", worker->chunks, size, 0, size);
	chunks_refused("closed descriptor", closed, size, size, 2 * size);
	chunks_refused("memfd", wrong, size, size, 2 * size);
	chunks_refused("socket", pair, size, size, 2 * size);
	told("chunk smaller than it is", try_chunks(worker->chunks, size, size / 2, size + size / 2));
	check(healthy(), "chunk smaller than it is");
	close(memfd);
}

static void test_chunks(void)
{
	uint64_t sizes[WORKER_CHUNKS] = {worker->chunk_bytes, worker->chunk_bytes};
	struct kvc_dev_memory *memory;
	uint64_t bytes = WORKER_CHUNKS * worker->chunk_bytes;
	kvc_status status = kvc_dev_import_chunks(dev, worker->chunks, sizes, WORKER_CHUNKS, bytes, &memory);
	uint64_t middle = worker->chunk_bytes - MIB;

	told("chunks", status);
	if (status) {
		check(false, "chunks");
		return;
	}
	worker_fill(worker, 4, 0);
	usleep(100000);
	check(is_filled(kvc_dev_memory_address(memory) + middle, 2 * MIB, 4, middle / 2),
	      "chunks: what the worker wrote");
	kvc_dev_unimport(dev, memory);
	check(healthy(), "chunks unmapped");
}

/* --- marks --- */

static bool mark_comes(uint32_t value, double within_ms)
{
	double start = now_ms();

	while (__atomic_load_n(&worker->mark, __ATOMIC_ACQUIRE) != value) {
		if (now_ms() - start > within_ms)
			return false;
	}
	return true;
}

/* What another process's stream wrote before its mark is there for us, without waiting for anything. */
static void test_mark(void)
{
	struct kvc_dev_memory *memory = NULL;
	double start;

	if (kvc_dev_import(dev, worker->pool, 0, worker->pool_bytes, &memory)) {
		check(false, "imported for the mark");
		return;
	}
	start = now_ms();
	worker_fill(worker, 5, 300);
	printf("# the worker answered after %.1f ms\n", now_ms() - start);
	check(mark_comes(5, 5000) && is_filled(kvc_dev_memory_address(memory), 8 * MIB, 5, 0),
	      "behind another process's mark lies what it wrote");
	printf("# after %.1f ms\n", now_ms() - start);
	check(now_ms() - start > 250, "and the mark came when it was done");
	for (uint32_t i = 0; i < 200; i++) {
		worker_fill(worker, 1000 + i, 0);
		if (!mark_comes(1000 + i, 5000) ||
		    !is_filled(kvc_dev_memory_address(memory), 64 * 1024, 1000 + i, 0)) {
			check(false, "two hundred marks in a row");
			return;
		}
	}
	check(true, "two hundred marks in a row");
	kvc_dev_unimport(dev, memory);
	check(healthy(), "memory unmapped");
}

static void test_hint(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	uint64_t count = 0;
	kvc_status status = kvc_dev_hint(dev, stream, fd);

	told("hint", status);
	check(status == KVC_OK && read(fd, &count, sizeof count) == sizeof count && count == 1,
	      "a hint comes");
	close(fd);
}

/* --- pinning --- */

static double copy_gb_s(uint64_t offset)
{
	double start;

	if (finish())
		return 0;
	start = now_ms();
	for (int i = 0; i < 4; i++) {
		if (kvc_dev_copy_down(dev, arena + offset, staging, STAGING_BYTES, stream))
			return 0;
	}
	if (finish())
		return 0;
	return 4 * (double)STAGING_BYTES / 1e6 / (now_ms() - start);
}

static void *pin_thread(void *context)
{
	(void)context;
	return (void *)(intptr_t)kvc_dev_pin(dev, arena, ARENA_BYTES / 2);
}

static void test_pin(void)
{
	pthread_t thread;
	void *result = (void *)(intptr_t)KVC_INTERNAL;
	double start, slow = copy_gb_s(0);
	kvc_status status;

	start = now_ms();
	pthread_create(&thread, NULL, pin_thread, NULL);
	while (now_ms() - start < 20 && healthy())
		;
	pthread_join(thread, &result);
	printf("# pinned %llu MiB in %.0f ms, beside copies\n", ARENA_BYTES / 2 / MIB, now_ms() - start);
	check((kvc_status)(intptr_t)result == KVC_OK && healthy(), "a thread pins beside copies");
	printf("# pageable %.1f GB/s, pinned %.1f GB/s, not yet pinned %.1f GB/s\n", slow, copy_gb_s(0),
	       copy_gb_s(ARENA_BYTES / 2));
	status = kvc_dev_pin(dev, arena, ARENA_BYTES / 2);
	told("pinned again", status);
	check(status != KVC_OK && healthy(), "pinned twice");
	status = kvc_dev_copy_down(dev, arena + ARENA_BYTES / 2 - MIB, staging, 2 * MIB, stream);
	told("a copy that crosses into what is not pinned", status);
	check(healthy(), "a copy half pinned");
	status = kvc_dev_pin(dev, arena + ARENA_BYTES / 2, ARENA_BYTES / 4);
	told("pin the next range", status);
	status = kvc_dev_copy_down(dev, arena + ARENA_BYTES / 2 - MIB, staging, 2 * MIB, stream);
	told("a copy that crosses from one pinned range into another", status);
	check(healthy(), "a copy over two ranges");
	status = kvc_dev_pin(dev, (void *)(uintptr_t)4096, MIB);
	told("pin what is not mapped", status);
	check(status != KVC_OK && healthy(), "pin what is not mapped");
}

/* --- encode and decode --- */

struct batch {
	struct kvc_kern_block block;
	struct kvc_kern_result result;
	uint32_t ids[BLOCK_PAGES];
	uint64_t layers[2][POOL_LAYERS];
};

static const struct kvc_block_shape shape = {.layers = POOL_LAYERS,
                                             .heads = POOL_HEADS,
                                             .key_dim = POOL_DIM,
                                             .value_dim = POOL_DIM,
                                             .tokens = BLOCK_TOKENS,
                                             .dtype = KVC_DTYPE_BF16};
static const uint32_t source_pages[BLOCK_PAGES] = {3, 17, 0, 63, 8, 21, 22, 40};
static const uint32_t target_pages[BLOCK_PAGES] = {50, 1, 44, 2, 9, 62, 10, 11};

static uint64_t kind_offset(uint32_t layer, uint32_t kind)
{
	return (2 * layer + kind) * KIND_BYTES;
}

static uint64_t token_offset(const uint32_t *pages, uint32_t layer, uint32_t kind, uint32_t token)
{
	uint32_t position = BLOCK_FIRST + token;

	return kind_offset(layer, kind) + (uint64_t)pages[position / PAGE_TOKENS] * PAGE_BYTES +
	       (uint64_t)(position % PAGE_TOKENS) * TOKEN_BYTES;
}

/* The block as the CPU codec takes it, from the pattern. */
static void block_gather(uint8_t *to, uint32_t seed)
{
	uint16_t *next = (uint16_t *)(void *)to;

	for (uint32_t kind = 0; kind < 2; kind++) {
		for (uint32_t layer = 0; layer < POOL_LAYERS; layer++) {
			for (uint32_t t = 0; t < BLOCK_TOKENS; t++) {
				uint64_t first = token_offset(source_pages, layer, kind, t) / 2;

				for (uint32_t i = 0; i < TOKEN_BYTES / 2; i++)
					*next++ = worker_element(first + i, seed);
			}
		}
	}
}

static struct kvc_block_view block_view(uint8_t *bytes)
{
	struct kvc_block_view view = {.key = bytes, .value = bytes + kvc_block_raw_bytes(&shape) / 2};

	kvc_block_layout_default(&shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(&shape, KVC_KIND_VALUE, &view.value_layout);
	return view;
}

static uint64_t cpu_image(const struct kvc_image_plan *plan, uint8_t *source, uint8_t *image)
{
	struct kvc_block_view view = block_view(source);
	uint64_t length = 0;
	void *scratch = aligned_alloc(64, (kvc_image_scratch_bytes(plan) + 127) / 64 * 64);

	kvc_image_encode_tiles(plan, kvc_codec_get(KVC_SIMD_AUTO), &view, image, 0, plan->tiles, scratch);
	(void)kvc_image_seal(plan, &view, image, plan->raw_image_bytes, &length);
	free(scratch);
	return length;
}

static void batch_set(struct batch *batch, uint64_t pool, uint64_t image, uint64_t image_bytes,
                      const uint32_t *pages)
{
	memset(batch, 0, sizeof *batch);
	memcpy(batch->ids, pages, sizeof batch->ids);
	for (uint32_t layer = 0; layer < POOL_LAYERS; layer++) {
		for (uint32_t kind = 0; kind < 2; kind++)
			batch->layers[kind][layer] = pool + kind_offset(layer, kind);
	}
	batch->block = (struct kvc_kern_block){.image = image,
	                                       .image_bytes = image_bytes,
	                                       .ids = staging + offsetof(struct batch, ids),
	                                       .first_token = BLOCK_FIRST};
}

static struct kvc_kern_place place_of(uint32_t kind)
{
	return (struct kvc_kern_place){
	        .layers = (const uint64_t *)(uintptr_t)(staging + offsetof(struct batch, layers) +
	                                                kind * POOL_LAYERS * sizeof(uint64_t)),
	        .layers_align = 16,
	        .bytes = POOL_PAGES * (uint64_t)PAGE_BYTES,
	        .page_stride = PAGE_BYTES,
	        .token_stride = TOKEN_BYTES,
	        .head_stride = ROW_BYTES};
}

/* Copy up, launch, copy the result down, wait. */
static kvc_status batch_run(struct batch *batch, const struct kvc_image_plan *plan, bool encode)
{
	struct kvc_kern_pool pool = {.key = place_of(0),
	                             .value = place_of(1),
	                             .pages = POOL_PAGES,
	                             .page_tokens = PAGE_TOKENS,
	                             .id_bytes = 4};
	struct kvc_kern_job job = {
	        .plan = plan,
	        .pool = &pool,
	        .blocks = (const struct kvc_kern_block *)(uintptr_t)staging,
	        .results = (struct kvc_kern_result *)(uintptr_t)(staging + offsetof(struct batch, result)),
	        .count = 1,
	        .sms = 32,
	        .stream = stream};
	kvc_status status = kvc_dev_copy_up(dev, staging, batch, sizeof *batch, stream);

	if (status == KVC_OK)
		status = encode ? kvc_dev_encode(dev, &job) : kvc_dev_decode(dev, &job);
	if (status == KVC_OK)
		status = kvc_dev_copy_down(dev, &batch->result, staging + offsetof(struct batch, result),
		                           sizeof batch->result, stream);
	return status ? status : finish();
}

static bool restored(uint64_t pool, const uint8_t *expected)
{
	uint64_t bytes = POOL_LAYERS * 2 * KIND_BYTES;

	if (kvc_dev_copy_down(dev, arena, pool, bytes, stream) || finish())
		return false;
	for (uint32_t kind = 0; kind < 2; kind++) {
		for (uint32_t layer = 0; layer < POOL_LAYERS; layer++) {
			for (uint32_t t = 0; t < BLOCK_TOKENS; t++) {
				if (memcmp(arena + token_offset(target_pages, layer, kind, t), expected,
				           TOKEN_BYTES) != 0)
					return false;
				expected += TOKEN_BYTES;
			}
		}
	}
	return true;
}

static void codec_trial(uint64_t pool, const struct kvc_image_plan *plan, uint8_t *raw, uint8_t *image,
                        uint8_t *got)
{
	uint64_t at = staging + MIB, length = 0, right;
	struct kvc_block_view view = block_view(raw);
	struct kvc_image opened;
	struct batch batch;
	void *scratch = aligned_alloc(64, (kvc_image_scratch_bytes(plan) + 127) / 64 * 64);

	block_gather(raw, 6);
	right = cpu_image(plan, raw, image);
	batch_set(&batch, pool, at, plan->image_bytes, source_pages);
	told("encode", batch_run(&batch, plan, true));
	check(batch.result.errors == 0 && batch.result.image_bytes == right &&
	              kvc_dev_copy_down(dev, got, at, right, stream) == KVC_OK && finish() == KVC_OK &&
	              kvc_kern_image_seal(plan, got, right, &length) == KVC_OK && length == right &&
	              memcmp(got, image, right) == 0,
	      "the image is the CPU's");
	check(kvc_image_open(image, right, 0, &opened) == KVC_OK &&
	              kvc_image_decode_tiles(&opened, kvc_codec_get(KVC_SIMD_AUTO), &view, 0, plan->tiles, 0,
	                                     scratch) == KVC_OK,
	      "decoded by the CPU");
	batch_set(&batch, pool, at, right, target_pages);
	told("decode", batch_run(&batch, plan, false));
	check(batch.result.errors == 0 && restored(pool, raw), "restored as by the CPU");
	batch_set(&batch, pool, at, right, target_pages);
	batch.ids[2] = POOL_PAGES;
	told("page out of range", batch_run(&batch, plan, false));
	check(batch.result.errors == KVC_KERN_BAD_PAGE && healthy(), "a page id out of range");
	free(scratch);
}

static void test_codec(void)
{
	struct kvc_block_codec codec;
	struct kvc_image_plan plan;
	struct kvc_dev_memory *memory;
	uint8_t *buffers;

	(void)kvc_preset_get("quality", &codec);
	if (kvc_image_plan_init(&plan, &shape, &codec) ||
	    kvc_dev_import(dev, worker->pool, 0, worker->pool_bytes, &memory)) {
		check(false, "a pool for the codec");
		return;
	}
	buffers = aligned_alloc(64, 3 * (4 * MIB));
	worker_fill(worker, 6, 0);
	usleep(100000);
	codec_trial(kvc_dev_memory_address(memory), &plan, buffers, buffers + 4 * MIB, buffers + 8 * MIB);
	kvc_dev_unimport(dev, memory);
	free(buffers);
}

/* --- the worker dies --- */

static void step(const char *what, double start)
{
	printf("# %s: %.1f ms\n", what, now_ms() - start);
	fflush(stdout);
}

/* The mark of a worker that died before its stream came to it never comes: it is looked at, and no stream of
 * ours waits for it, because unmapping memory waits for all streams. */
static void test_death(void)
{
	struct kvc_dev_memory *memory;
	uint64_t chunk_bytes[WORKER_CHUNKS] = {worker->chunk_bytes, worker->chunk_bytes};
	struct kvc_dev_memory *chunks;
	double start;

	if (kvc_dev_import(dev, worker->pool, 0, worker->pool_bytes, &memory) ||
	    kvc_dev_import_chunks(dev, worker->chunks, chunk_bytes, WORKER_CHUNKS, worker->chunk_bytes,
	                          &chunks)) {
		check(false, "imported before the worker dies");
		return;
	}
	worker_fill(worker, 7, 500);
	worker_kill(worker);
	check(!mark_comes(7, 1000), "the mark of a worker that died before");
	check(kvc_dev_copy_down(dev, arena, kvc_dev_memory_address(memory), 8 * MIB, stream) == KVC_OK &&
	              healthy(),
	      "the dead worker's memory is still there");
	start = now_ms();
	kvc_dev_unimport(dev, chunks);
	step("chunks unmapped", start);
	kvc_dev_unimport(dev, memory);
	step("memory unmapped", start);
	check(now_ms() - start < 1000 && healthy(), "the dead worker's memory is closed");
	told("import after death", try_import(worker->pool, 0, worker->pool_bytes));
	check(healthy(), "a dead worker's handle");
}

int main(void)
{
	int memfd;

	alarm(30);
	worker = worker_start();
	memfd = memfd_create("arena", MFD_CLOEXEC);
	if (!worker || memfd < 0 || ftruncate(memfd, ARENA_BYTES)) {
		fprintf(stderr, "cannot set up\n");
		return 2;
	}
	arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (arena == MAP_FAILED)
		return 2;
	test_open();
	test_alloc();
	test_forged();
	test_bounds();
	test_twice();
	test_chunks_wrong();
	test_chunks();
	test_mark();
	test_hint();
	test_pin();
	test_codec();
	test_death();
	printf("1..%d\n", tests);
	fflush(stdout);
	_exit(failures != 0);
}
