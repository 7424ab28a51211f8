/* Any bytes as what a client sends, in any pieces, with and without descriptors, while operations run and end
 * at any time: the session must stay within its memory, and leave nothing when the client goes.
 *
 * The input is pieces: length (1 byte), flags (1 byte), bytes. Flags: 1 a memfd comes with the piece; 2
 * operations are held from now on; 4 one held operation ends; 8 operations end at once from now on; 16 the
 * piece is a frame's body, and its first byte the verb: a right header is made for it; 32 the GPU engine's
 * answers are held from now on; 64 one comes; 128 they come at once from now on. If the first byte of the
 * input is odd, hello, a namespace and a region come before; if its second bit is set, device memory and a
 * pool too, as regions 2 and 3. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/rpc/rpc.h"
#include "tests/fake/fake_cache.h"
#include "tests/fake/fake_gpu.h"

enum {
	FLAG_FD = 1,
	FLAG_HOLD = 2,
	FLAG_RELEASE = 4,
	FLAG_AT_ONCE = 8,
	FLAG_FRAME = 16,
	FLAG_GPU_HOLD = 32,
	FLAG_GPU_RELEASE = 64,
	FLAG_GPU_AT_ONCE = 128,
	TURNS = 3
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct kvc_loop *loop;
static struct kvc_stats *stats;
static struct kvc_cache *cache;
static struct kvc_gpu *gpu;
static struct kvc_rpc *rpc;
static struct kvc_task nudge;
static int memfd;

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "failed: %s\n", what);
		abort();
	}
}

static void nothing(struct kvc_task *task)
{
	(void)task;
}

/* A turn that does not wait: one that has run a task does not. */
static void turns(unsigned count)
{
	while (count--) {
		kvc_loop_defer(loop, &nudge);
		kvc_loop_turn(loop);
	}
}

static void begin(void)
{
	struct kvc_rpc_options options = {
	        .version = "fuzz",
	        .limits = {.connections = 4,
	                   .connections_per_uid = 4,
	                   .inflight = 4,
	                   .batch = 64,
	                   .namespaces = 3,
	                   .regions = 6,
	                   .pins = 10,
	                   .region_bytes = 1 << 20,
	                   .inline_bytes = 1 << 16,
	                   .inline_budget = 1 << 17,
	                   .deadline_ms_default = 1000,
	                   .deadline_ms_max = 60000,
	                   .stall_ms = 60000},
	};

	kvc_log_level_now = KVC_LOG_ERROR;
	kvc_key_init();
	must(kvc_loop_open(&loop) == KVC_OK && kvc_stats_open(&stats) == KVC_OK, "loop");
	nudge.run = nothing;
	cache = kvc_fake_cache_open(loop);
	gpu = kvc_fake_gpu_open(loop, 0);
	options.gpus = &gpu;
	options.gpu_count = 1;
	options.loop = loop;
	options.stats = stats;
	options.cache = cache;
	must(kvc_rpc_open(&options, &rpc) == KVC_OK, "service");
	memfd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	must(memfd >= 0 && ftruncate(memfd, 1 << 16) == 0 && fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0,
	     "memfd");
}

/* What the socket does not take is lost: the session is fuzzed, not the socket. */
static void send_piece(int fd, const uint8_t *data, size_t bytes, bool with_fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)data, bytes};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (bytes == 0)
		return;
	if (with_fd) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_LEN(sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &memfd, sizeof memfd);
	}
	(void)sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_frame(int fd, uint8_t verb, const uint8_t *body, size_t bytes, bool with_fd)
{
	struct kvc_frame frame = {.verb = verb,
	                          .flags = with_fd ? KVC_FRAME_FD : 0,
	                          .body_bytes = (uint32_t)bytes,
	                          .request_id = 1};
	uint8_t out[KVC_FRAME_HEADER_BYTES + 256];

	kvc_frame_encode(&frame, out);
	memcpy(out + KVC_FRAME_HEADER_BYTES, body, bytes);
	send_piece(fd, out, KVC_FRAME_HEADER_BYTES + bytes, with_fd);
}

static void prelude(int fd)
{
	static const uint8_t hello[] = {0x08, 1, 0x10, 1};
	static const uint8_t open_ns[] = {0x08, 1, 0x12, 1,  't',  0x1A, 1,    'm', 0x20, 1,
	                                  0x28, 1, 0x30, 16, 0x38, 16,   0x40, 1,   0x48, 4,
	                                  0x58, 1, 0x62, 5,  0x0A, 3,    'r',  'a', 'w'};
	static const uint8_t attach[] = {0x08, 1, 0x10, 2, 0x18, 0x80, 0x20};

	send_frame(fd, KVC_VERB_HELLO, hello, sizeof hello, false);
	send_frame(fd, KVC_VERB_OPEN, open_ns, sizeof open_ns, false);
	send_frame(fd, KVC_VERB_ATTACH, attach, sizeof attach, true);
	turns(TURNS);
}

/* Region 2: 4096 bytes at a handle. Pool 3: pages of 8 tokens of 1 layer, 1 head of 16 channels. */
static void prelude_cuda(int fd)
{
	static const uint8_t begin[] = {0x08, 2, 0x10, 3, 0x18, 0x80, 0x20, 0x22, 16};
	static const uint8_t pool[] = {0x08, 3,    0x10, 1, 0x18, 8, 0x20, 8,    0x2A, 7,    0x08, 0x80, 2,
	                               0x10, 0x20, 0x18, 2, 0x32, 7, 0x08, 0x80, 2,    0x10, 0x20, 0x18, 2,
	                               0x3A, 2,    0x08, 2, 0x42, 5, 0x08, 2,    0x10, 0x80, 0x10};
	uint8_t attach[sizeof begin + 16 + 2 + 64] = {0};

	memcpy(attach, begin, sizeof begin);
	memcpy(attach + sizeof begin, kvc_gpu_uuid(gpu), 16);
	attach[sizeof begin + 16] = 0x2A;
	attach[sizeof begin + 17] = 64;
	send_frame(fd, KVC_VERB_ATTACH, attach, sizeof attach, false);
	send_frame(fd, KVC_VERB_POOL, pool, sizeof pool, false);
	turns(2 * TURNS);
	must(kvc_fake_gpu_pools(gpu) == 1, "the prelude's pool is open");
}

static void drain_replies(int fd)
{
	uint8_t sink[4096];

	while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0)
		;
}

static void piece(int fd, uint8_t flags, const uint8_t *data, size_t bytes)
{
	if (flags & FLAG_HOLD)
		kvc_fake_mode_set(cache, flags & FLAG_RELEASE ? KVC_FAKE_STUCK : KVC_FAKE_HOLD);
	if (flags & FLAG_AT_ONCE)
		kvc_fake_mode_set(cache, KVC_FAKE_AT_ONCE);
	if (flags & (FLAG_GPU_HOLD | FLAG_GPU_AT_ONCE))
		kvc_fake_gpu_hold(gpu, flags & FLAG_GPU_HOLD);
	if (flags & FLAG_FRAME && bytes)
		send_frame(fd, data[0], data + 1, bytes - 1, flags & FLAG_FD);
	else
		send_piece(fd, data, bytes, flags & FLAG_FD);
	turns(TURNS);
	if (flags & FLAG_RELEASE)
		kvc_fake_release(cache, 1);
	if (flags & FLAG_GPU_RELEASE)
		kvc_fake_gpu_release(gpu);
	drain_replies(fd);
}

/* The client goes; held operations end; nothing may be left. */
static void end(int fd)
{
	kvc_stat_cell *connections = kvc_stats_cell(stats, "rpc.connections");

	close(fd);
	for (int i = 0; i < 50 && kvc_stat_get(connections); i++) {
		kvc_fake_release(cache, 1000);
		while (kvc_fake_gpu_release(gpu))
			;
		turns(1);
	}
	must(kvc_stat_get(connections) == 0, "the session ended");
	must(kvc_fake_open_objects(cache) == 0, "its objects were closed");
	must(kvc_stat_get(kvc_stats_cell(stats, "rpc.inline_bytes")) == 0, "its payloads were freed");
	must(kvc_stat_get(kvc_stats_cell(stats, "rpc.inflight")) == 0, "its requests ended");
	must(kvc_stat_get(kvc_stats_cell(stats, "rpc.region_bytes")) == 0, "its memory was unmapped");
	must(kvc_stat_get(kvc_stats_cell(stats, "rpc.device_bytes")) == 0, "its device memory was let go");
	must(kvc_fake_gpu_regions(gpu) + kvc_fake_gpu_pools(gpu) == 0, "by the engine too");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *stop = data + size;
	int64_t live;
	int pair[2];

	if (!rpc)
		begin();
	if (size == 0)
		return 0;
	kvc_fake_mode_set(cache, KVC_FAKE_AT_ONCE);
	live = kvc_alloc_live();
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	must(kvc_rpc_adopt(rpc, pair[1], getuid()) == KVC_OK, "session");
	kvc_fake_gpu_hold(gpu, false);
	if (*data & 1)
		prelude(pair[0]);
	if ((*data & 3) == 3)
		prelude_cuda(pair[0]);
	data++;
	while (stop - data >= 2) {
		size_t bytes = data[0] < stop - data - 2 ? data[0] : (size_t)(stop - data - 2);

		piece(pair[0], data[1], data + 2, bytes);
		data += 2 + bytes;
	}
	end(pair[0]);
	turns(TURNS);
	must(kvc_alloc_live() == live, "its memory was freed");
	return 0;
}
