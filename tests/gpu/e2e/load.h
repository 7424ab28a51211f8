/* Load on the cuda plane with an oracle: any thread and any process can tell a wrong byte.
 *
 * The contents of block `number` are those of number modulo `contents` (sample.h), restored by the scalar
 * codec once at the start, so that checking costs a comparison; its key is the number. A load_user puts, gets
 * and drops blocks from a pool on the device or from shared memory, checks each answer, and counts what may
 * not be. */
#ifndef KVC_TESTS_GPU_LOAD_H
#define KVC_TESTS_GPU_LOAD_H

#include <stdatomic.h>

#include "tests/gpu/e2e/paged.h"
#include "tests/gpu/e2e/rig.h"

#define LOAD_BATCH     8u
#define LOAD_KEY_BYTES 16u

/* What is known of all contents; made once, read by all. */
struct load_oracle {
	struct kvc_sample_space space;
	unsigned contents;
	uint8_t **source;
	uint8_t **restored;
};

/* 8 layers, 4 heads of 128, 64 tokens, bf16, preset quality: 1 MiB a block; small against the stand-in. */
void load_oracle_open(struct load_oracle *oracle, unsigned contents);

/* For who only writes: nothing can be checked. */
void load_oracle_open_blind(struct load_oracle *oracle, unsigned contents);
void load_oracle_close(struct load_oracle *oracle);

struct load_counts {
	atomic_ulong blocks; /* put, or read and right */
	atomic_ulong misses;
	atomic_ulong retryable; /* requests and blocks that may be sent again */
	atomic_ulong wrong;     /* bytes that are not those of the key */
	atomic_ulong refused;   /* statuses that say no such thing */
	atomic_ulong slow;      /* calls past their deadline and what comes on top */
	atomic_ulong last_status;
};

struct load_user {
	const struct load_oracle *oracle;
	struct load_counts *counts;
	uint32_t deadline_ms;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory; /* one of the two */
	struct paged paged;
	bool on_device;
	unsigned device; /* that its calls are made from */
	uint64_t step;
	uint8_t keys[LOAD_BATCH][LOAD_KEY_BYTES];
	struct kvc_block blocks[LOAD_BATCH];
	struct kvc_outcome outcome; /* of the last request */
	uint8_t *elements;          /* of one block */
};

/* Connect, open the namespace, set up a pool on the device that this thread works on, or memory if there is
 * no form. False: kvc_last_error says why. */
bool load_user_open(struct load_user *user, const struct load_oracle *oracle, const char *socket,
                    const struct paged_form *form, struct load_counts *counts);
void load_user_close(struct load_user *user);

/* `count` <= LOAD_BATCH blocks from number `first`: how many were KVC_OK and, for a get, right. */
size_t load_put(struct load_user *user, uint64_t first, size_t count, uint32_t ack);
size_t load_get(struct load_user *user, uint64_t first, size_t count);
size_t load_drop(struct load_user *user, uint64_t first, size_t count);

/* How many of the blocks are present, in any tier; bit i of *present is the i-th. -1: no answer. */
int load_present(struct load_user *user, uint64_t first, size_t count, uint32_t *present);

/* Blocks as a put of these numbers would name them, written to the device; for requests of the caller's own.
 */
void load_prepare(struct load_user *user, uint64_t first, size_t count);

/* A thread that puts, gets and drops until it is told to stop. */
struct load_thread {
	struct load_user user;
	uint64_t first; /* its numbers begin there: 2^32 apart */
	uint64_t seed;
	atomic_bool stop;
	bool started;
	unsigned long handle;
};

bool load_thread_start(struct load_thread *thread, unsigned number, const struct load_oracle *oracle,
                       const char *socket, const struct paged_form *form, struct load_counts *counts);
void load_thread_stop(struct load_thread *thread);

#endif
