/* A client that can send anything: raw bytes, frames, descriptors. Blocking, with a bound on every wait. */
#ifndef KVC_TEST_WIRE_H
#define KVC_TEST_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/kvc_status.h"
#include "proto/kvcellar.pb-c.h"

/* Connected socket, -1 if nobody listens. */
int kvc_test_connect(const char *path);

/* False: the peer is gone. */
bool kvc_test_send(int fd, const void *data, size_t bytes);
bool kvc_test_send_fds(int fd, const void *data, size_t bytes, const int *fds, size_t count);

struct kvc_test_reply {
	struct kvc_frame frame;
	uint8_t body[KVC_FRAME_BODY_MAX];
	uint8_t *payload; /* malloced; NULL if empty */
};

enum kvc_test_event { KVC_TEST_REPLY, KVC_TEST_EOF, KVC_TEST_TIMEOUT };

/* The next reply, the end of the connection, or nothing for 30 s. */
enum kvc_test_event kvc_test_receive(int fd, struct kvc_test_reply *reply);

/* A frame with that message as body; `out` has 64 KiB. Returns its length. message NULL: an empty body. */
size_t kvc_test_frame(const struct kvc_frame *frame, const ProtobufCMessage *message, uint8_t *out);

/* Send a request and wait for its reply, whose status is returned; KVC_DISCONNECTED: there was none. */
kvc_status kvc_test_call(int fd, enum kvc_verb verb, const ProtobufCMessage *message,
                         struct kvc_test_reply *reply);

/* Connect and say hello; -1 if it failed. */
int kvc_test_client(const char *path);

/* Open namespace 1: 2 layers, 2 heads of 64 channels, bf16, 16 tokens, preset. */
kvc_status kvc_test_open_ns(int fd, const char *preset);

/* The same of another tenant than all others'. */
kvc_status kvc_test_open_ns_of(int fd, const char *tenant, const char *preset);
#define KVC_TEST_BLOCK_BYTES (2u * 16u * 2u * 64u * 2u * 2u)

/* Detail of a failure reply, "" if it has none. */
const char *kvc_test_detail(const struct kvc_test_reply *reply);

/* All statistics of the daemon, as it says now. Free with kvcellar__stats_reply__free_unpacked. */
Kvcellar__StatsReply *kvc_test_stats(int fd);
double kvc_test_stat(const Kvcellar__StatsReply *stats, const char *name);

#endif
