/* Building and sending the frames of a scripted session. */
#include "tests/support/raw_session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/alloc.h"
#include "client/wire.h"
#include "proto/frame.h"

#define REGION_BYTES 65536u
#define SLOT_BYTES   1024u

void raw_space_init(struct kvc_sample_space *space)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.tenant = "raw";
	options.model = "raw-session";
	options.layers = 2;
	options.heads = 2;
	options.key_dim = options.value_dim = 16;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 1;
	if (kvc_sample_space_init(space, &options, 1) != KVC_OK)
		abort();
}

static void check(kvc_status status)
{
	if (status != KVC_OK)
		abort();
}

/* Take the encoded body, give it its header, and append `payload_bytes` of payload. */
static void frame_add(struct raw_session *session, size_t number, uint16_t verb, struct kvcc_buffer *buffer,
                      const void *payload, size_t payload_bytes)
{
	struct raw_frame *out = &session->frames[number];
	struct kvc_frame frame = {
	        .verb = verb,
	        .flags = verb == KVC_VERB_ATTACH ? KVC_FRAME_FD : 0,
	        .body_bytes = (uint32_t)(buffer->length - KVC_FRAME_HEADER_BYTES),
	        .request_id = number + 1,
	        .payload_bytes = payload_bytes,
	};

	check(kvcc_buffer_reserve(buffer, buffer->length + payload_bytes));
	kvc_frame_encode(&frame, buffer->bytes);
	if (payload_bytes)
		memcpy(buffer->bytes + buffer->length, payload, payload_bytes);
	out->bytes = buffer->bytes;
	out->length = buffer->length + payload_bytes;
	out->has_descriptor = verb == KVC_VERB_ATTACH;
	session->length += out->length;
	memset(buffer, 0, sizeof *buffer);
}

static void memory_open(struct raw_session *session)
{
	session->memfd = memfd_create("raw-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (session->memfd < 0 || ftruncate(session->memfd, REGION_BYTES) != 0)
		abort();
	session->memory = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, session->memfd, 0);
	if (session->memory == MAP_FAILED || fcntl(session->memfd, F_ADD_SEALS, F_SEAL_SHRINK) != 0)
		abort();
}

static void add_blocks(struct raw_session *session, const struct kvc_sample_space *space, size_t number,
                       uint16_t verb, uint64_t first_id, size_t count, bool inline_plane)
{
	uint8_t keys[RAW_BLOCKS][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[RAW_BLOCKS];
	uint8_t payload[SLOT_BYTES];
	struct kvcc_buffer buffer = {0};
	struct kvc_transfer transfer;
	struct kvcc_wire_blocks wire = {
	        .verb = verb,
	        .ns = 1,
	        .deadline_ms = 10000,
	        .region = inline_plane ? 0 : 1,
	        .transfer = &transfer,
	        .blocks = blocks,
	        .count = count,
	};
	size_t bytes = inline_plane ? kvc_sample_bytes(space, first_id) : 0;

	kvc_transfer_init(&transfer, NULL);
	for (size_t i = 0; i < count; i++) {
		uint64_t offset = i * SLOT_BYTES;

		kvc_sample_block(space, first_id + i, offset, keys[i], &blocks[i]);
		if (verb == KVC_VERB_PUT && !inline_plane)
			kvc_sample_source(space, first_id + i, session->memory + offset);
	}
	if (inline_plane)
		kvc_sample_source(space, first_id, payload);
	check(kvcc_wire_blocks(&wire, &buffer));
	frame_add(session, number, verb, &buffer, payload, bytes);
	session->frames[number].puts = verb == KVC_VERB_PUT ? (unsigned)count : 0;
}

/* The destination of the get lies behind the sources. */
static void add_get(struct raw_session *session, const struct kvc_sample_space *space, uint64_t id)
{
	uint8_t key[KVC_SAMPLE_KEY_BYTES];
	struct kvc_block block;
	struct kvcc_buffer buffer = {0};
	struct kvc_transfer transfer;
	struct kvcc_wire_blocks wire = {
	        .verb = KVC_VERB_GET,
	        .ns = 1,
	        .deadline_ms = 10000,
	        .region = 1,
	        .transfer = &transfer,
	        .blocks = &block,
	        .count = 1,
	};

	kvc_transfer_init(&transfer, NULL);
	kvc_sample_block(space, id, RAW_BLOCKS * SLOT_BYTES, key, &block);
	check(kvcc_wire_blocks(&wire, &buffer));
	frame_add(session, 5, KVC_VERB_GET, &buffer, NULL, 0);
}

static void add_drop(struct raw_session *session)
{
	uint8_t bytes[KVC_SAMPLE_KEY_BYTES];
	struct kvc_key key = {.data = bytes, .bytes = sizeof bytes};
	struct kvcc_buffer buffer = {0};

	kvc_sample_key(UINT64_MAX, bytes);
	check(kvcc_wire_keys(&(struct kvcc_wire_keys){1, 10000, false, &key, 1}, &buffer));
	frame_add(session, 6, KVC_VERB_DROP, &buffer, NULL, 0);
}

void raw_session_open(struct raw_session *session, const struct kvc_sample_space *space, uint64_t first_id)
{
	struct kvcc_buffer buffer = {0};

	memset(session, 0, sizeof *session);
	memory_open(session);
	for (size_t i = 0; i < RAW_BLOCKS; i++)
		session->ids[i] = first_id + i;
	check(kvcc_wire_hello("raw", &buffer));
	frame_add(session, 0, KVC_VERB_HELLO, &buffer, NULL, 0);
	check(kvcc_wire_open(1, &space->options, &buffer));
	frame_add(session, 1, KVC_VERB_OPEN, &buffer, NULL, 0);
	check(kvcc_wire_attach(1, REGION_BYTES, &buffer));
	frame_add(session, 2, KVC_VERB_ATTACH, &buffer, NULL, 0);
	add_blocks(session, space, 3, KVC_VERB_PUT, first_id, 2, false);
	add_blocks(session, space, 4, KVC_VERB_PUT, first_id + 2, 1, true);
	add_get(session, space, first_id);
	add_drop(session);
}

void raw_session_close(struct raw_session *session)
{
	for (size_t i = 0; i < RAW_FRAMES; i++)
		kvcc_free(session->frames[i].bytes);
	munmap(session->memory, REGION_BYTES);
	close(session->memfd);
}

unsigned raw_session_puts(const struct raw_session *session, size_t bytes)
{
	unsigned puts = 0;

	for (unsigned i = 0; i < RAW_FRAMES && bytes >= raw_session_boundary(session, i + 1); i++)
		puts += session->frames[i].puts;
	return puts;
}

size_t raw_session_boundary(const struct raw_session *session, unsigned frames)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < frames; i++)
		bytes += session->frames[i].length;
	return bytes;
}

/* ---- the socket ---------------------------------------------------------------------------- */

int raw_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	close(fd);
	return -1;
}

static ssize_t send_part(int fd, const struct raw_frame *frame, size_t bytes, int descriptor)
{
	struct iovec iov = {.iov_base = frame->bytes, .iov_len = bytes};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (frame->has_descriptor) {
		memset(&control, 0, sizeof control);
		message.msg_control = &control;
		message.msg_controllen = sizeof control.room;
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL);
}

bool raw_session_send(const struct raw_session *session, int fd, size_t bytes)
{
	for (unsigned i = 0; i < RAW_FRAMES && bytes > 0; i++) {
		const struct raw_frame *frame = &session->frames[i];
		size_t part = bytes < frame->length ? bytes : frame->length;

		if (send_part(fd, frame, part, session->memfd) != (ssize_t)part)
			return false;
		bytes -= part;
	}
	return true;
}

static bool read_exactly(int fd, uint8_t *to, size_t bytes, unsigned timeout_ms)
{
	while (bytes > 0) {
		struct pollfd watch = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&watch, 1, (int)timeout_ms) <= 0)
			return false;
		got = recv(fd, to, bytes, 0);
		if (got <= 0)
			return false;
		to += got;
		bytes -= (size_t)got;
	}
	return true;
}

bool raw_session_await(const struct raw_session *session, int fd, size_t bytes, unsigned timeout_ms)
{
	uint8_t *body = malloc(KVC_FRAME_BODY_MAX);
	bool ok = body != NULL;

	for (unsigned i = 0; ok && i < RAW_FRAMES && bytes >= raw_session_boundary(session, i + 1); i++) {
		uint8_t header[KVC_FRAME_HEADER_BYTES];
		struct kvc_frame frame;

		ok = read_exactly(fd, header, sizeof header, timeout_ms) &&
		     kvc_frame_decode(header, &frame, NULL) == KVC_OK && frame.status == KVC_OK &&
		     read_exactly(fd, body, frame.body_bytes, timeout_ms);
	}
	free(body);
	return ok;
}
