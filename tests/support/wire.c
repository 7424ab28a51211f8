/* See wire.h. */
#include "tests/support/wire.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { WAIT_MS = 30000, FDS_MAX = 253 };

int kvc_test_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof address.sun_path)
		return -1;
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	close(fd);
	return -1;
}

bool kvc_test_send(int fd, const void *data, size_t bytes)
{
	const uint8_t *at = data;

	while (bytes) {
		ssize_t sent = send(fd, at, bytes, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		at += sent;
		bytes -= (size_t)sent;
	}
	return true;
}

bool kvc_test_send_fds(int fd, const void *data, size_t bytes, const int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)data, bytes};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};

	message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * count);
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* ---- receiving ----------------------------------------------------------------------------- */

static enum kvc_test_event read_all(int fd, uint8_t *out, size_t bytes)
{
	while (bytes) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&wait, 1, WAIT_MS) != 1)
			return KVC_TEST_TIMEOUT;
		got = recv(fd, out, bytes, 0);
		if (got <= 0)
			return KVC_TEST_EOF;
		out += got;
		bytes -= (size_t)got;
	}
	return KVC_TEST_REPLY;
}

enum kvc_test_event kvc_test_receive(int fd, struct kvc_test_reply *reply)
{
	uint8_t header[KVC_FRAME_HEADER_BYTES];
	enum kvc_test_event event = read_all(fd, header, sizeof header);

	reply->payload = NULL;
	if (event != KVC_TEST_REPLY)
		return event;
	if (kvc_frame_decode(header, &reply->frame, NULL) != KVC_OK)
		return KVC_TEST_EOF;
	event = read_all(fd, reply->body, reply->frame.body_bytes);
	if (event != KVC_TEST_REPLY || !reply->frame.payload_bytes)
		return event;
	reply->payload = malloc(reply->frame.payload_bytes);
	return reply->payload ? read_all(fd, reply->payload, reply->frame.payload_bytes) : KVC_TEST_EOF;
}

/* ---- requests ------------------------------------------------------------------------------ */

size_t kvc_test_frame(const struct kvc_frame *frame, const ProtobufCMessage *message, uint8_t *out)
{
	struct kvc_frame filled = *frame;

	if (message)
		filled.body_bytes = (uint32_t)protobuf_c_message_pack(message, out + KVC_FRAME_HEADER_BYTES);
	kvc_frame_encode(&filled, out);
	return KVC_FRAME_HEADER_BYTES + filled.body_bytes;
}

kvc_status kvc_test_call(int fd, enum kvc_verb verb, const ProtobufCMessage *message,
                         struct kvc_test_reply *reply)
{
	static uint64_t request_id;
	struct kvc_frame frame = {.verb = (uint16_t)verb, .request_id = ++request_id};
	uint8_t bytes[1 << 16];

	if (!kvc_test_send(fd, bytes, kvc_test_frame(&frame, message, bytes)) ||
	    kvc_test_receive(fd, reply) != KVC_TEST_REPLY || reply->frame.request_id != frame.request_id)
		return KVC_DISCONNECTED;
	return (kvc_status)reply->frame.status;
}

int kvc_test_client(const char *path)
{
	Kvcellar__Hello hello;
	struct kvc_test_reply reply;
	int fd = kvc_test_connect(path);

	kvcellar__hello__init(&hello);
	hello.protocol_min = hello.protocol_max = KVC_PROTOCOL_VERSION;
	if (fd >= 0 && kvc_test_call(fd, KVC_VERB_HELLO, &hello.base, &reply) == KVC_OK)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

kvc_status kvc_test_open_ns(int fd, const char *preset)
{
	return kvc_test_open_ns_of(fd, "tenant", preset);
}

kvc_status kvc_test_open_ns_of(int fd, const char *tenant, const char *preset)
{
	char names[3][16] = {"", "model"};
	struct kvc_test_reply reply;
	Kvcellar__Codec codec;
	Kvcellar__Open open;

	kvcellar__open__init(&open);
	kvcellar__codec__init(&codec);
	snprintf(names[0], sizeof names[0], "%s", tenant);
	snprintf(names[2], sizeof names[2], "%s", preset);
	codec.preset = names[2];
	open.id = 1;
	open.tenant = names[0];
	open.model = names[1];
	open.layers = 2;
	open.heads = 2;
	open.key_dim = open.value_dim = 64;
	open.dtype = KVCELLAR__DTYPE__DTYPE_BF16;
	open.block_tokens = 16;
	open.shards = 1;
	open.codec = &codec;
	return kvc_test_call(fd, KVC_VERB_OPEN, &open.base, &reply);
}

const char *kvc_test_detail(const struct kvc_test_reply *reply)
{
	static char detail[512];
	Kvcellar__Failure *failure = kvcellar__failure__unpack(NULL, reply->frame.body_bytes, reply->body);

	snprintf(detail, sizeof detail, "%s", failure ? failure->detail : "");
	kvcellar__failure__free_unpacked(failure, NULL);
	return detail;
}

Kvcellar__StatsReply *kvc_test_stats(int fd)
{
	struct kvc_test_reply reply;

	if (kvc_test_call(fd, KVC_VERB_STATS, NULL, &reply) != KVC_OK)
		return NULL;
	return kvcellar__stats_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
}

double kvc_test_stat(const Kvcellar__StatsReply *stats, const char *name)
{
	for (size_t i = 0; i < stats->n_stats; i++) {
		if (strcmp(stats->stats[i]->name, name) == 0)
			return stats->stats[i]->value;
	}
	return -1;
}
