/* The device layer without a device: kvcellar-engine-fake runs on it, so that everything from the worker's
 * pool to the image in the arena is run where there is no GPU.
 *
 * Device memory is the process's own, or files of $KVC_FAKE_CUDA_DIR that another process made: mem-PID-N, as
 * long as the allocation, whose IPC handle is the name and in the last 8 bytes the size. Chunks of VMM memory
 * are memfds.
 * Work is done when it is enqueued, by the CPU codec; only its events may come later.
 *
 * Faults: $KVC_FAKE_CUDA_DIR/fault has one a line, looked at before each call that it concerns.
 *   no-device             the device does not open
 *   alloc-fails           no device memory
 *   pin-fails, slow-pin MS
 *   delay MS              events come that long after the launch that they are behind
 *   hang N                launches after the N-th of this process never end
 *   illegal-address N     launches after the N-th of this process lose the device. The file is removed, so
 *                         that the next engine is well
 *   copy-error N          copies after the N-th fail, once; the file is removed */
#include "daemon/gpu/device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "kernels/image_internal.h"

#define DEVICES      10u
#define DEVICE_BYTES (8ull << 30)
#define NAME_BYTES   56u /* of a memory handle; then 8 of the size */
#define NEVER        UINT64_MAX

struct kvc_dev {
	atomic_bool lost;
	uint64_t allocated;
	uint64_t launches;
	uint64_t copies;
};

struct kvc_dev_stream {
	uint64_t done_ns; /* up to which it is busy */
};

struct kvc_dev_event {
	uint64_t done_ns;
};

struct kvc_dev_memory {
	uint8_t *base; /* of the reservation */
	uint64_t reservation;
	uint64_t address;
};

struct allocation {
	uint64_t bytes; /* behind it, a page on, the memory */
};

static _Thread_local char why[KVC_GPU_DETAIL_BYTES];

/* --- small things --- */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static kvc_status refuse(kvc_status status, const char *text)
{
	snprintf(why, sizeof why, "%s", text);
	return status;
}

const char *kvc_dev_why(void)
{
	return why;
}

bool kvc_dev_lost(const struct kvc_dev *dev)
{
	return atomic_load(&dev->lost);
}

static kvc_status alive(const struct kvc_dev *dev)
{
	return kvc_dev_lost(dev) ? refuse(KVC_ENGINE_LOST, "an illegal memory access was encountered")
	                         : KVC_OK;
}

static void path_of(char path[512], const char *name)
{
	const char *folder = getenv("KVC_FAKE_CUDA_DIR");

	snprintf(path, 512, "%s/%s", folder ? folder : "/nonexistent", name);
}

/* --- faults --- */

/* True if the fault is set; *number is what stands behind its name, or 0. */
static bool fault(const char *name, uint64_t *number)
{
	char path[512], line[128], word[64];
	bool found = false;
	FILE *file;

	path_of(path, "fault");
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && fgets(line, sizeof line, file)) {
		unsigned long long value = 0;

		found = sscanf(line, "%63s %llu", word, &value) >= 1 && !strcmp(word, name);
		*number = value;
	}
	fclose(file);
	return found;
}

static void fault_over(void)
{
	char path[512];

	path_of(path, "fault");
	unlink(path);
}

/* --- the device --- */

kvc_status kvc_dev_open(uint32_t ordinal, struct kvc_dev **dev, struct kvc_dev_info *info)
{
	uint64_t number;

	if (ordinal >= DEVICES || fault("no-device", &number))
		return refuse(KVC_UNSUPPORTED, "no CUDA-capable device is detected");
	*dev = kvc_calloc(1, sizeof **dev);
	if (!*dev)
		return refuse(KVC_NO_MEMORY, "no memory");
	*info = (struct kvc_dev_info){.sms = 132};
	memcpy(info->uuid, "fake-gpu-000000", 15);
	info->uuid[15] = (uint8_t)('0' + ordinal);
	snprintf(info->name, sizeof info->name, "fake GPU %u", ordinal);
	return KVC_OK;
}

void kvc_dev_close(struct kvc_dev *dev)
{
	kvc_free(dev);
}

uint64_t kvc_dev_bytes(const struct kvc_dev *dev)
{
	return dev->allocated;
}

/* --- memory --- */

kvc_status kvc_dev_alloc(struct kvc_dev *dev, uint64_t bytes, uint64_t *address)
{
	struct allocation *made;
	uint64_t number;

	if (alive(dev))
		return KVC_ENGINE_LOST;
	if (fault("alloc-fails", &number) || bytes > DEVICE_BYTES - dev->allocated)
		return refuse(KVC_NO_MEMORY, "out of memory");
	made = mmap(NULL, 4096 + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	            -1, 0);
	if (made == MAP_FAILED)
		return refuse(KVC_NO_MEMORY, strerror(errno));
	made->bytes = bytes;
	dev->allocated += bytes;
	*address = (uint64_t)(uintptr_t)made + 4096;
	return KVC_OK;
}

void kvc_dev_free(struct kvc_dev *dev, uint64_t address)
{
	struct allocation *made = (void *)(uintptr_t)(address - 4096);

	dev->allocated -= made->bytes;
	munmap(made, 4096 + made->bytes);
}

kvc_status kvc_dev_host_alloc(struct kvc_dev *dev, uint64_t bytes, void **host)
{
	if (alive(dev))
		return KVC_ENGINE_LOST;
	*host = aligned_alloc(4096, kvc_round_up(bytes, 4096));
	return *host ? KVC_OK : refuse(KVC_NO_MEMORY, "out of memory");
}

void kvc_dev_host_free(struct kvc_dev *dev, void *host)
{
	(void)dev;
	free(host);
}

kvc_status kvc_dev_pin(struct kvc_dev *dev, void *host, uint64_t bytes)
{
	uint64_t ms = 0;

	(void)host;
	(void)bytes;
	if (alive(dev))
		return KVC_ENGINE_LOST;
	if (fault("pin-fails", &ms))
		return refuse(KVC_NO_MEMORY, "cannot pin");
	if (fault("slow-pin", &ms))
		usleep((useconds_t)(ms * 1000));
	return KVC_OK;
}

void kvc_dev_unpin(struct kvc_dev *dev, void *host)
{
	(void)dev;
	(void)host;
}

/* --- streams and events --- */

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

kvc_status kvc_dev_stream_open(struct kvc_dev *dev, bool low_priority, struct kvc_dev_stream **stream)
{
	(void)low_priority;
	if (alive(dev))
		return KVC_ENGINE_LOST;
	*stream = kvc_calloc(1, sizeof **stream);
	return *stream ? KVC_OK : refuse(KVC_NO_MEMORY, "no memory");
}

void kvc_dev_stream_close(struct kvc_dev *dev, struct kvc_dev_stream *stream)
{
	(void)dev;
	kvc_free(stream);
}

kvc_status kvc_dev_event_open(struct kvc_dev *dev, struct kvc_dev_event **event)
{
	if (alive(dev))
		return KVC_ENGINE_LOST;
	*event = kvc_calloc(1, sizeof **event);
	return *event ? KVC_OK : refuse(KVC_NO_MEMORY, "no memory");
}

void kvc_dev_event_close(struct kvc_dev *dev, struct kvc_dev_event *event)
{
	(void)dev;
	kvc_free(event);
}

kvc_status kvc_dev_event_record(struct kvc_dev *dev, struct kvc_dev_event *event,
                                struct kvc_dev_stream *stream)
{
	if (alive(dev))
		return KVC_ENGINE_LOST;
	event->done_ns = stream->done_ns;
	return KVC_OK;
}

kvc_status kvc_dev_event_wait(struct kvc_dev *dev, struct kvc_dev_event *event, struct kvc_dev_stream *stream)
{
	if (alive(dev))
		return KVC_ENGINE_LOST;
	stream->done_ns = later(stream->done_ns, event->done_ns);
	return KVC_OK;
}

kvc_status kvc_dev_event_poll(struct kvc_dev *dev, struct kvc_dev_event *event)
{
	if (alive(dev))
		return KVC_ENGINE_LOST;
	return event->done_ns <= now_ns() ? KVC_OK : KVC_BUSY;
}

/* Comes at once where the stream is done, else never: it is a hint. */
kvc_status kvc_dev_hint(struct kvc_dev *dev, struct kvc_dev_stream *stream, int event_fd)
{
	uint64_t one = 1;

	if (alive(dev))
		return KVC_ENGINE_LOST;
	if (stream->done_ns <= now_ns() && write(event_fd, &one, sizeof one) < 0)
		return refuse(KVC_IO, "eventfd");
	return KVC_OK;
}

/* --- copies --- */

static kvc_status copy(struct kvc_dev *dev, void *to, const void *from, uint64_t bytes)
{
	uint64_t after = 0;

	if (alive(dev))
		return KVC_ENGINE_LOST;
	if (fault("copy-error", &after) && dev->copies >= after) {
		fault_over();
		return refuse(KVC_INTERNAL, "a copy that was made to fail");
	}
	dev->copies++;
	memcpy(to, from, bytes);
	return KVC_OK;
}

kvc_status kvc_dev_copy_up(struct kvc_dev *dev, uint64_t to, const void *from, uint64_t bytes,
                           struct kvc_dev_stream *stream)
{
	(void)stream;
	return copy(dev, (void *)(uintptr_t)to, from, bytes);
}

kvc_status kvc_dev_copy_down(struct kvc_dev *dev, void *to, uint64_t from, uint64_t bytes,
                             struct kvc_dev_stream *stream)
{
	(void)stream;
	return copy(dev, to, (const void *)(uintptr_t)from, bytes);
}

/* --- kernels --- */

/* A block out of its pages and back: contiguous, keys then values, as the CPU codec's default layout. */
struct kernel {
	const struct kvc_kern_job *job;
	const struct kvc_kern_block *block;
	struct kvc_block_view view;
	uint8_t *rows; /* bytes of the view */
	uint8_t *image;
	void *scratch;
	bool to_pool;
	uint32_t errors;
};

static uint8_t *base_of(const struct kvc_kern_place *place, uint32_t layer)
{
	uint8_t *base = place->base;

	return place->layers ? (uint8_t *)(uintptr_t)place->layers[layer]
	                     : base + layer * place->layer_stride;
}

/* NULL if its page id is out of range. */
static uint8_t *token_at(const struct kernel *kernel, const struct kvc_kern_place *place, uint32_t layer,
                         uint32_t token)
{
	const struct kvc_kern_pool *pool = kernel->job->pool;
	uint32_t position = kernel->block->first_token + token;
	const uint32_t *ids = (const uint32_t *)(uintptr_t)kernel->block->ids;
	uint64_t id = ids[position / pool->page_tokens];

	KVC_PRE(pool->id_bytes == sizeof *ids);
	if (id >= pool->pages)
		return NULL;
	return base_of(place, layer) + id * place->page_stride +
	       position % pool->page_tokens * place->token_stride;
}

static void token_move(struct kernel *kernel, const struct kvc_kern_place *place, uint32_t layer,
                       uint32_t token, uint8_t *rows, uint64_t row_bytes)
{
	uint8_t *at = token_at(kernel, place, layer, token);

	for (uint32_t head = 0; head < kernel->job->plan->shape.heads; head++, rows += row_bytes) {
		if (!at)
			memset(rows, 0, row_bytes);
		else if (kernel->to_pool)
			memcpy(at + head * place->head_stride, rows, row_bytes);
		else
			memcpy(rows, at + head * place->head_stride, row_bytes);
	}
	if (!at)
		kernel->errors |= KVC_KERN_BAD_PAGE;
}

static void kind_move(struct kernel *kernel, const struct kvc_kern_place *place, uint8_t *rows, uint32_t dim)
{
	const struct kvc_block_shape *shape = &kernel->job->plan->shape;
	uint64_t row_bytes = dim * (uint64_t)kvc_dtype_bytes(shape->dtype);

	for (uint32_t layer = 0; layer < shape->layers; layer++) {
		for (uint32_t token = 0; token < shape->tokens; token++) {
			token_move(kernel, place, layer, token, rows, row_bytes);
			rows += shape->heads * row_bytes;
		}
	}
}

static void pages_move(struct kernel *kernel, bool to_pool)
{
	const struct kvc_block_shape *shape = &kernel->job->plan->shape;

	kernel->to_pool = to_pool;
	kind_move(kernel, &kernel->job->pool->key, kernel->view.key, shape->key_dim);
	if (shape->value_dim)
		kind_move(kernel, &kernel->job->pool->value, kernel->view.value, shape->value_dim);
}

static bool block_usable(const struct kernel *kernel)
{
	return kernel->block->image % KVC_IMAGE_ALIGN == 0 &&
	       kernel->block->image_bytes >= kernel->job->plan->image_bytes;
}

/* All but the header, which a kernel does not write: what stands there is no header. */
static void image_store(const struct kernel *kernel, uint64_t bytes)
{
	uint8_t *to = (uint8_t *)(uintptr_t)kernel->block->image;
	uint64_t header = KVC_IMAGE_HEADER_BYTES +
	                  kernel->job->plan->codec.override_count * sizeof(struct kvc_image_override);

	memset(to, 0xEE, header);
	memcpy(to + header, kernel->image + header, bytes - header);
}

static void encode_block(struct kernel *kernel, struct kvc_kern_result *result)
{
	const struct kvc_image_plan *plan = kernel->job->plan;
	uint64_t needed = plan->image_bytes;

	pages_move(kernel, false);
	kvc_image_encode_tiles(plan, kvc_codec_get(KVC_SIMD_AUTO), &kernel->view, kernel->image, 0,
	                       plan->tiles, kernel->scratch);
	(void)kvc_image_seal(plan, &kernel->view, kernel->image, 0, &needed);
	if (!block_usable(kernel))
		kernel->errors |= KVC_KERN_NO_SPACE;
	else if (needed == plan->raw_image_bytes && plan->image_bytes < needed)
		kernel->errors |= KVC_KERN_ALL_RAW;
	else if (needed > kernel->block->image_bytes)
		kernel->errors |= KVC_KERN_NO_SPACE;
	else if (kvc_image_seal(plan, &kernel->view, kernel->image, needed, &needed) == KVC_OK)
		image_store(kernel, needed);
	*result = (struct kvc_kern_result){
	        .errors = kernel->errors, .raw_tiles = needed > plan->image_bytes, .image_bytes = needed};
}

/* The header that the GPU does not look at is made first, so that what is wrong is wrong behind it. */
static void decode_block(struct kernel *kernel, struct kvc_kern_result *result)
{
	const struct kvc_image_plan *plan = kernel->job->plan;
	uint64_t length = kernel->block->image_bytes;
	struct kvc_image image;

	if (block_usable(kernel))
		memcpy(kernel->image, (const void *)(uintptr_t)kernel->block->image, length);
	if (!block_usable(kernel) || kvc_kern_image_seal(plan, kernel->image, length, &length) != KVC_OK ||
	    kvc_image_open(kernel->image, length, 0, &image) != KVC_OK ||
	    kvc_image_decode_tiles(&image, kvc_codec_get(KVC_SIMD_AUTO), &kernel->view, 0, plan->tiles, 0,
	                           kernel->scratch) != KVC_OK)
		kernel->errors |= KVC_KERN_CORRUPT;
	pages_move(kernel, true);
	*result = (struct kvc_kern_result){.errors = kernel->errors};
}

static bool kernel_open(struct kernel *kernel, const struct kvc_kern_job *job)
{
	const struct kvc_image_plan *plan = job->plan;
	size_t raw = kvc_block_raw_bytes(&plan->shape);
	size_t values = raw / (plan->shape.key_dim + plan->shape.value_dim) * plan->shape.value_dim;

	*kernel = (struct kernel){.job = job};
	kernel->rows = calloc(1, raw);
	kernel->image = aligned_alloc(KVC_IMAGE_ALIGN, kvc_round_up(plan->raw_image_bytes, KVC_IMAGE_ALIGN));
	kernel->scratch = aligned_alloc(64, kvc_round_up(kvc_image_scratch_bytes(plan) + 64, 64));
	kernel->view.key = kernel->rows;
	kernel->view.value = plan->shape.value_dim ? kernel->rows + raw - values : NULL;
	kvc_block_layout_default(&plan->shape, KVC_KIND_KEY, &kernel->view.key_layout);
	kvc_block_layout_default(&plan->shape, KVC_KIND_VALUE, &kernel->view.value_layout);
	return kernel->rows && kernel->image && kernel->scratch;
}

static void kernel_close(struct kernel *kernel)
{
	free(kernel->rows);
	free(kernel->image);
	free(kernel->scratch);
}

/* What the faults make of a launch. */
static kvc_status launch_begin(struct kvc_dev *dev, struct kvc_dev_stream *stream)
{
	uint64_t number = 0;

	if (alive(dev))
		return KVC_ENGINE_LOST;
	if (fault("illegal-address", &number) && dev->launches >= number) {
		fault_over();
		atomic_store(&dev->lost, true);
		return KVC_OK; /* as CUDA: the next call tells */
	}
	if (fault("hang", &number) && dev->launches >= number)
		stream->done_ns = NEVER;
	if (fault("delay", &number))
		stream->done_ns = later(stream->done_ns, now_ns() + number * 1000000);
	dev->launches++;
	return KVC_OK;
}

static kvc_status launch(struct kvc_dev *dev, const struct kvc_kern_job *job,
                         void (*run)(struct kernel *kernel, struct kvc_kern_result *result))
{
	struct kernel kernel;
	kvc_status status = launch_begin(dev, job->stream);

	if (status || kvc_dev_lost(dev))
		return status;
	if (!kernel_open(&kernel, job))
		status = refuse(KVC_NO_MEMORY, "no memory");
	for (uint32_t i = 0; status == KVC_OK && i < job->count; i++) {
		kernel.block = &job->blocks[i];
		kernel.errors = 0;
		run(&kernel, &job->results[i]);
	}
	kernel_close(&kernel);
	return status;
}

kvc_status kvc_dev_encode(struct kvc_dev *dev, const struct kvc_kern_job *job)
{
	return launch(dev, job, encode_block);
}

kvc_status kvc_dev_decode(struct kvc_dev *dev, const struct kvc_kern_job *job)
{
	return launch(dev, job, decode_block);
}

/* --- memory of other processes --- */

/* The file of a handle, if it is that long. */
static int file_open(const char *name, uint64_t bytes)
{
	char path[512];
	struct stat stat;
	int fd;

	if (name[0] == 0 || strchr(name, '/'))
		return -1;
	path_of(path, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &stat) || (uint64_t)stat.st_size != bytes)) {
		close(fd);
		return -1;
	}
	return fd;
}

static struct kvc_dev_memory *memory_make(void *base, uint64_t reservation, uint64_t offset)
{
	struct kvc_dev_memory *made = kvc_calloc(1, sizeof *made);

	if (!made) {
		munmap(base, reservation);
		return NULL;
	}
	made->base = base;
	made->reservation = reservation;
	made->address = (uint64_t)(uintptr_t)base + offset;
	return made;
}

kvc_status kvc_dev_import(struct kvc_dev *dev, const uint8_t handle[KVC_GPU_HANDLE_BYTES], uint64_t offset,
                          uint64_t bytes, struct kvc_dev_memory **memory)
{
	char name[NAME_BYTES + 1] = {0};
	uint64_t size, end;
	void *base;
	int fd;

	if (alive(dev))
		return KVC_ENGINE_LOST;
	memcpy(name, handle, NAME_BYTES);
	memcpy(&size, handle + NAME_BYTES, sizeof size);
	fd = strncmp(name, "mem-", 4) || size == 0 ? -1 : file_open(name, size);
	if (fd < 0)
		return refuse(KVC_INVALID, "open the IPC handle of the memory: invalid resource handle");
	if (!kvc_add_u64(offset, bytes, &end) || end > size) {
		close(fd);
		return refuse(KVC_INVALID, "the region does not lie in the allocation");
	}
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (base == MAP_FAILED)
		return refuse(KVC_NO_MEMORY, strerror(errno));
	*memory = memory_make(base, size, offset);
	return *memory ? KVC_OK : refuse(KVC_NO_MEMORY, "no memory");
}

static bool chunk_map(uint8_t *at, int fd, uint64_t bytes)
{
	struct stat stat;

	if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &stat) || (uint64_t)stat.st_size < bytes)
		return false;
	return mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
}

/* Chunks are memfds. */
kvc_status kvc_dev_import_chunks(struct kvc_dev *dev, const int *fds, const uint64_t *chunk_bytes,
                                 uint32_t chunks, uint64_t bytes, struct kvc_dev_memory **memory)
{
	uint64_t total = 0, at = 0;
	uint8_t *base;

	if (alive(dev))
		return KVC_ENGINE_LOST;
	for (uint32_t i = 0; i < chunks; i++) {
		if (chunk_bytes[i] == 0 || chunk_bytes[i] % 4096 ||
		    !kvc_add_u64(total, chunk_bytes[i], &total))
			return refuse(KVC_INVALID, "a chunk's size is none of CUDA's");
	}
	if (total == 0 || total < bytes)
		return refuse(KVC_INVALID, "the chunks do not hold the region");
	base = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return refuse(KVC_NO_MEMORY, strerror(errno));
	for (uint32_t i = 0; i < chunks; i++) {
		if (!chunk_map(base + at, fds[i], chunk_bytes[i])) {
			munmap(base, total);
			return refuse(KVC_INVALID,
			              "map a chunk: it is smaller than was said, or none of CUDA's");
		}
		at += chunk_bytes[i];
	}
	*memory = memory_make(base, total, 0);
	return *memory ? KVC_OK : refuse(KVC_NO_MEMORY, "no memory");
}

void kvc_dev_unimport(struct kvc_dev *dev, struct kvc_dev_memory *memory)
{
	(void)dev;
	munmap(memory->base, memory->reservation);
	kvc_free(memory);
}

uint64_t kvc_dev_memory_address(const struct kvc_dev_memory *memory)
{
	return memory->address;
}
