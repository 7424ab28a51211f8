/* What tests of the client library share: a fake daemon at a path of its own, a client, a small namespace,
 * memory, and blocks with contents that follow from their number. */
#ifndef KVC_TESTS_CLIENT_FIXTURE_H
#define KVC_TESTS_CLIENT_FIXTURE_H

#include "kvcellar.h"
#include "tests/support/fake_daemon.h"
#include "tests/support/temp_dir.h"

enum {
	FIXTURE_LAYERS = 2,
	FIXTURE_HEADS = 2,
	FIXTURE_DIM = 16,
	FIXTURE_TOKENS = 4,
	FIXTURE_HALF = FIXTURE_LAYERS * FIXTURE_HEADS * FIXTURE_DIM * FIXTURE_TOKENS * 2, /* K or V, bf16 */
	FIXTURE_BLOCK = 2 * FIXTURE_HALF,
	FIXTURE_SLOTS = 256, /* blocks that the memory holds */
};

struct fixture {
	char folder[KVC_TEMP_DIR_BYTES];
	char path[108]; /* of a socket: no longer */
	struct fake_daemon *daemon;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
};

struct fixture_block {
	uint64_t key;
	struct kvc_block block;
};

/* Daemon, client and memory; the namespace is open. limits may be NULL. */
void fixture_open(struct fixture *fixture, const struct fake_limits *limits);
/* Only the path, and a client. */
void fixture_open_empty(struct fixture *fixture);
void fixture_close(struct fixture *fixture);

void fixture_start_daemon(struct fixture *fixture, const struct fake_limits *limits);
void fixture_stop_daemon(struct fixture *fixture);
struct kvc_namespace *fixture_namespace(struct fixture *fixture);

/* Blocks first, first + 1, ... in slots 0, 1, ... of the memory (modulo FIXTURE_SLOTS). */
void fixture_blocks(struct kvc_block *blocks, uint64_t *keys, size_t count, uint64_t first);
/* Write, and check, what the slots of blocks first... hold. */
void fixture_fill(struct kvc_memory *memory, size_t count, uint64_t first);
void fixture_expect(struct kvc_memory *memory, size_t count, uint64_t first);
void fixture_clear(struct kvc_memory *memory);
uint8_t fixture_byte(uint64_t key, size_t at);

/* Put or get `count` blocks from `first` with default options. */
kvc_status fixture_put(struct fixture *fixture, size_t count, uint64_t first, uint32_t deadline_ms);
kvc_status fixture_get(struct fixture *fixture, size_t count, uint64_t first, uint32_t deadline_ms);

#endif
