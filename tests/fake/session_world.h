/* A service over a fake cache in the test's own process, and clients of it over socketpairs. One thread:
 * waiting for a reply turns the loop. Everything here asserts. */
#ifndef KVC_TEST_SESSION_WORLD_H
#define KVC_TEST_SESSION_WORLD_H

#include <stdbool.h>

#include "daemon/rpc/rpc.h"
#include "tests/fake/fake_cache.h"
#include "tests/fake/fake_gpu.h"
#include "tests/support/wire.h"

enum { KVC_SES_REGION_BYTES = 1 << 20 };

struct kvc_session_world {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_cache *cache;
	struct kvc_gpu *gpus[2]; /* NULL: none */
	struct kvc_rpc *rpc;
	struct kvc_rpc_limits limits; /* that it was opened with */
	bool stopped;                 /* kvc_rpc_stop is done */
};

extern struct kvc_session_world kvc_ses;

/* Context is a bool to set. */
void kvc_ses_on_stopped(void *context);

/* Blocks of 16 tokens with keys "a", "b", ..., one behind the other in region 1. */
struct kvc_ses_transfer {
	Kvcellar__Put put;
	Kvcellar__Get get;
	Kvcellar__Block blocks[64];
	Kvcellar__Block *pointers[64];
	char keys[64];
};

/* For cmocka: open and close all; the teardown fails if memory is left. */
int kvc_ses_setup(void **state);

/* The same with two GPUs. */
int kvc_ses_setup_gpus(void **state);

/* Stop the service and wait for it. */
void kvc_ses_stop(uint64_t timeout_ms);
int kvc_ses_teardown(void **state);

/* The client's end of a new session, of this user or of another; -1 if it was not taken. */
int kvc_ses_connect_raw(void);
int kvc_ses_connect_as(uid_t uid);

/* Counts up: ids for frames that a test makes itself. */
uint64_t kvc_ses_request_id(void);

/* Returns its id. Small enough for the socket's buffer: nobody reads while the test writes. */
uint64_t kvc_ses_send_request(int fd, enum kvc_verb verb, const ProtobufCMessage *message,
                              const void *payload, size_t bytes);

/* Turn the loop until there is a reply or the end. */
enum kvc_test_event kvc_ses_next(int fd, struct kvc_test_reply *reply);

/* Status of the next reply, which must have that id; KVC_DISCONNECTED: there was none. */
kvc_status kvc_ses_next_status(int fd, uint64_t id);
kvc_status kvc_ses_call(int fd, enum kvc_verb verb, const ProtobufCMessage *message);

/* Turns that do not wait: whatever follows from what was sent has happened. Time does not pass. */
void kvc_ses_settle(void);

/* Nothing comes, for as long as that. */
bool kvc_ses_silent(int fd);
void kvc_ses_assert_ends(int fd);
kvc_status kvc_ses_hello(int fd);

/* 2 layers, 2 heads of 64 channels, bf16, 16 tokens, raw. */
kvc_status kvc_ses_open_ns(int fd, uint32_t id); /* of tenant "t" */
kvc_status kvc_ses_open_ns_of(int fd, uint32_t id, const char *tenant);
kvc_status kvc_ses_attach(int fd, uint32_t id, int memfd);
int kvc_ses_sealed_memfd(void);

/* Has said hello and opened namespace 1. */
int kvc_ses_client(void);

/* Also has attached region 1, mapped here as *memory. */
int kvc_ses_client_with_region(uint8_t **memory);
void kvc_ses_transfer_init(struct kvc_ses_transfer *t, uint32_t count, Kvcellar__Plane plane);

/* Statuses of the reply's blocks, as a string of digits in base 36. */
const char *kvc_ses_block_statuses(const struct kvc_test_reply *reply);
void kvc_ses_assert_blocks(int fd, uint64_t id, const char *statuses);

/* Bytes that repeat late. */
void kvc_ses_fill(uint8_t *data, size_t bytes, unsigned seed);

#endif
