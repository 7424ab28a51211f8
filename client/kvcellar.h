/* libkvcellar: store KV-cache blocks in a kvcellar daemon and get them back.
 *
 * A block is the K and V of up to `block_tokens` consecutive tokens of one sequence, all layers and heads
 * of this shard. Its bytes lie in a kvc_memory (shared with the daemon, nothing is copied through the
 * socket); its key is any 1 to 64 bytes, usually the engine's own prefix hash. What comes back is what the
 * codec defines for what was put (docs/codec.md), or nothing: a miss is always possible, a wrong byte never.
 *
 * Rules that hold for every call
 *  - Thread-safe: any thread may call anything at any time, but an object must not be used during or after
 *    its own destroy/close.
 *  - Bounded: a call returns by its deadline, up to 250 ms later if the daemon hangs. deadline_ms 0 means
 *    the client's default. The death of the daemon fails every pending call at once with
 *    KVC_DISCONNECTED; while there is no daemon calls fail with KVC_UNAVAILABLE; the first call after its
 *    return reconnects by itself (namespaces and memory are set up again, pins are lost).
 *  - Out-parameters are written on KVC_OK only, except where said.
 *  - Strings are UTF-8 and borrowed for the call. Objects from create/open are owned by the caller.
 *  - Structs start with `size`: set it to sizeof, or use the *_init function, which also fills in defaults.
 *
 * Link with -lkvcellar (pkg-config kvcellar).
 *
 * Long because a program includes one header for all of it but device memory (kvcellar_cuda.h). */
#ifndef KVCELLAR_H
#define KVCELLAR_H

#include <stddef.h>
#include <stdint.h>

#include "kvc_status.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct kvc_client; /* a connection to one daemon, re-made when it breaks */
struct kvc_memory; /* memory that the daemon can read and write too */
struct kvc_pool;   /* a paged KV pool in device memory that the daemon's GPU engine can reach: kvcellar_cuda.h
                    */
struct kvc_namespace; /* tenant + model + shape + codec: what keys are relative to */

/* Version of the library, "MAJOR.MINOR.PATCH". */
const char *kvc_version(void);

/* What went wrong in this thread's last failed call, for people: never NULL, valid until the thread's
 * next call. Says what was wrong, what was expected, and what to do. */
const char *kvc_last_error(void);

/* ---- client -------------------------------------------------------------------------------- */

struct kvc_client_options {
	size_t size;
	const char *socket_path; /* NULL: $KVCELLAR_SOCKET, else kvc_default_socket() */
	const char *name;        /* for the daemon's log; NULL: the program's name */
	uint32_t deadline_ms;    /* default deadline of every call; init: 1000 */
};

void kvc_client_options_init(struct kvc_client_options *options);

/* $XDG_RUNTIME_DIR/kvcellar.sock, or /run/kvcellar/kvcellar.sock for root or without that variable. */
const char *kvc_default_socket(void);

/* Make a client. Needs no daemon: the connection is made by the first call that needs it. options may be
 * NULL. Errors: KVC_INVALID, KVC_NO_MEMORY. */
kvc_status kvc_client_create(const struct kvc_client_options *options, struct kvc_client **client);

/* Fails what is pending with KVC_CANCELLED and frees all, also namespaces and memory still open. If puts or
 * gets on imported memory are pending, returns when the daemon has let go of it, or when they have expired.
 */
void kvc_client_destroy(struct kvc_client *client);

/* Round trip to the daemon; connects if need be. */
kvc_status kvc_ping(struct kvc_client *client, uint32_t deadline_ms);

/* What the daemon said of itself at the last connect. */
struct kvc_daemon_info {
	size_t size;
	uint8_t boot_id[16]; /* changes at every start of the daemon */
	char version[32];
	uint32_t protocol;
	uint32_t planes;   /* bit set: 1 << 1 inline, 1 << 2 shm, 1 << 3 cuda */
	uint32_t batch;    /* most blocks of one request */
	uint32_t inflight; /* most unanswered requests */
	uint64_t inline_bytes;
	uint64_t region_bytes;
	uint64_t connects; /* how often this client has connected: a change means that pins are lost */
};
kvc_status kvc_client_info(struct kvc_client *client, struct kvc_daemon_info *info, uint32_t deadline_ms);

/* ---- memory -------------------------------------------------------------------------------- */

/* Allocate `bytes` (rounded up to pages) that the daemon can reach; zeroed. */
kvc_status kvc_memory_create(struct kvc_client *client, uint64_t bytes, struct kvc_memory **memory);

/* Use a memfd of the caller's, sealed with F_SEAL_SHRINK. The descriptor is duplicated and mapped.
 *
 * A fence (see kvc_memory_renew) ends with the memory, but the daemon may still write into the memfd when it
 * goes on. So do not use a memfd again, imported anew or otherwise, if its memory was fenced when it was
 * destroyed, or if gets on it were pending when a client was destroyed while the daemon hung: make another.
 */
kvc_status kvc_memory_import(struct kvc_client *client, int memfd, uint64_t bytes,
                             struct kvc_memory **memory);

void *kvc_memory_data(struct kvc_memory *memory);
uint64_t kvc_memory_bytes(const struct kvc_memory *memory);

/* A put or get that ended in KVC_DEADLINE because the daemon hangs may still be carried out when it goes on.
 * Until it has answered or is gone, the memory is fenced: requests on it fail with KVC_FENCED (also after the
 * daemon broke the protocol, or an error of this side ended the connection). This gives the memory new pages
 * at the same address (zeroed) that the old requests cannot reach, and lifts the fence. KVC_IN_USE: others
 * are pending; KVC_UNSUPPORTED for imported memory. */
kvc_status kvc_memory_renew(struct kvc_memory *memory);

/* Waits for requests that use it (each ends by its deadline), then unmaps. */
void kvc_memory_destroy(struct kvc_memory *memory);

/* ---- namespaces ---------------------------------------------------------------------------- */

/* Numbers as on the wire and in docs/codec.md. */
enum kvc_element { KVC_ELEMENT_BF16 = 1, KVC_ELEMENT_FP16 = 2, KVC_ELEMENT_FP32 = 3 };

/* Codec settings of keys or of values, where no preset fits. */
struct kvc_coding {
	uint32_t bits;  /* 2 to 8; 255: stored as is */
	uint32_t group; /* 16, 32, 64 or 128 channels */
	int centre;     /* 0 or 1 each */
	int rotate;
	int gain;
	float clip; /* 0: the format's table; 1: none */
};

struct kvc_layer_coding {
	uint32_t layer;
	struct kvc_coding key;
	struct kvc_coding value;
};

struct kvc_namespace_options {
	size_t size;
	const char *tenant; /* 1 to 64 of [A-Za-z0-9._-]; init: "default" */
	const char *model;  /* fingerprint of model and revision, 1 to 256 bytes; required */
	uint32_t layers;
	uint32_t heads; /* KV heads of this shard */
	uint32_t key_dim;
	uint32_t value_dim;    /* 0: key-only blocks */
	uint32_t element;      /* enum kvc_element */
	uint32_t block_tokens; /* init: 128 */
	uint32_t shard;        /* init: 0 */
	uint32_t shards;       /* init: 1 */
	const char *preset;    /* init: "quality"; NULL: key_coding and value_coding */
	struct kvc_coding key_coding;
	struct kvc_coding value_coding;
	const struct kvc_layer_coding *layer_codings; /* layers that differ, ascending; up to 16 */
	size_t layer_coding_count;
	uint32_t prefetch; /* 1: look-ups also start what kvc_prefetch does, for the leading keys that are
	                    * present: for who will get what he finds. init: 0. No part of the identity */
};

void kvc_namespace_options_init(struct kvc_namespace_options *options);

/* Open a namespace. Two that differ in any option but prefetch share nothing. Errors: KVC_SHAPE, KVC_INVALID,
 * KVC_LIMIT, KVC_ACCESS, and those of every call. */
kvc_status kvc_namespace_open(struct kvc_client *client, const struct kvc_namespace_options *options,
                              uint32_t deadline_ms, struct kvc_namespace **ns);
void kvc_namespace_close(struct kvc_namespace *ns);

/* Bytes of a full block as it comes, and as it is stored if no tile is raw. */
uint64_t kvc_namespace_raw_bytes(const struct kvc_namespace *ns);
uint64_t kvc_namespace_image_bytes(const struct kvc_namespace *ns);

/* ---- blocks -------------------------------------------------------------------------------- */

/* Byte strides of K or V in memory; the channels of a head are contiguous. All zero: contiguous
 * [layers][tokens][heads][dim]. */
struct kvc_layout {
	int64_t layer_stride;
	int64_t token_stride;
	int64_t head_stride;
};

struct kvc_block {
	const void *key; /* borrowed until the request is complete */
	size_t key_bytes;
	const void *parent; /* key of the block before it in its sequence, or NULL: a put only */
	size_t parent_bytes;
	uint32_t tokens;       /* 1 to block_tokens; a get must ask for what was put */
	uint32_t first_token;  /* pool: where in the first page the block begins */
	uint64_t key_offset;   /* memory: of the block's first K element from the memory's start */
	uint64_t value_offset; /* memory: likewise V; ignored for key-only blocks */
	uint64_t image_bytes;  /* form image, at key_offset: length (put), room (get; out: length) */
	const uint32_t *pages; /* pool: ids of the block's pages, in order; borrowed until complete */
	size_t page_count;
	kvc_status status; /* out, on completion: KVC_OK, KVC_MISS, ... */
};

/* What the memory holds: elements, or the coded image of a block (docs/codec.md), aligned to 64 bytes. */
enum kvc_form { KVC_FORM_BLOCK = 0, KVC_FORM_IMAGE = 1 };

enum kvc_ack {
	KVC_ACK_RAM = 1,  /* complete when encoded: the source may be reused; a crash may lose the block */
	KVC_ACK_DISK = 2, /* complete when on stable storage */
};

/* Among the blocks of a tenant: those of a lower priority are evicted first. */
enum kvc_put_priority { KVC_PUT_LOW = 1, KVC_PUT_NORMAL = 2, KVC_PUT_HIGH = 3 };

struct kvc_transfer {
	size_t size;
	struct kvc_memory *memory;
	struct kvc_layout key_layout;
	struct kvc_layout value_layout;
	uint32_t ack;          /* of a put; init: KVC_ACK_RAM */
	uint32_t deadline_ms;  /* init: 0, the client's default */
	uint32_t form;         /* enum kvc_form; init: KVC_FORM_BLOCK */
	struct kvc_pool *pool; /* instead of memory */
	void *stream;          /* pool: cudaStream_t or CUstream; the daemon waits for what it holds now */

	/* What is known of the blocks of a put. Of a block that is present already a put can only take back:
	 * raise its priority, put off its end, allow the disk. */
	uint32_t ttl_ms;    /* a miss so long after the put arrived, and after a restart of the daemon; init:
	                     * 0, no limit. KVC_INVALID with KVC_ACK_DISK */
	uint32_t priority;  /* enum kvc_put_priority; init: KVC_PUT_NORMAL */
	uint32_t ephemeral; /* 1: never written to disk; init: 0. KVC_INVALID with KVC_ACK_DISK */
};

void kvc_transfer_init(struct kvc_transfer *transfer, struct kvc_memory *memory);

/* What a request did, summed over its blocks. */
struct kvc_outcome {
	uint64_t blocks_ok;
	uint64_t stored_bytes; /* images written or read */
	uint64_t from_vram;    /* a get: blocks by the tier that served them */
	uint64_t from_ram;
	uint64_t from_disk;
};

/* Store blocks. Returns KVC_OK if the daemon answered; each block has its own status. A block that is
 * already present is KVC_OK and left as it is (first writer wins). Any other return: no block's status is
 * known, each is set to that return. Batches above the daemon's limit are split. outcome may be NULL.
 *
 * Above the tenant's budget: KVC_QUOTA, of the call, with the reason in kvc_last_error, if nothing of it
 * could begin, else of single blocks. Nothing was done for these; the same may succeed later. So for gets. */
kvc_status kvc_put(struct kvc_namespace *ns, const struct kvc_transfer *transfer, struct kvc_block *blocks,
                   size_t count, struct kvc_outcome *outcome);

/* Restore blocks. As kvc_put; the destination of a block is complete and verified if its status is KVC_OK and
 * undefined else. Blocks need not be in order. */
kvc_status kvc_get(struct kvc_namespace *ns, const struct kvc_transfer *transfer, struct kvc_block *blocks,
                   size_t count, struct kvc_outcome *outcome);

/* The same without shared memory: `data` holds block after block, keys then values, each contiguous. For
 * tools and tests; at most kvc_daemon_info.inline_bytes. transfer->memory is ignored. */
kvc_status kvc_put_inline(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, const void *data, uint64_t bytes,
                          struct kvc_outcome *outcome);
kvc_status kvc_get_inline(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *data, uint64_t bytes,
                          struct kvc_outcome *outcome);

/* ---- keys ---------------------------------------------------------------------------------- */

struct kvc_key {
	const void *data;
	size_t bytes;
};

enum kvc_tier { KVC_TIER_NONE = 0, KVC_TIER_VRAM = 1, KVC_TIER_RAM = 2, KVC_TIER_DISK = 3 };

/* How many leading keys of a chain are present, and for each of the `count` keys the fastest tier that
 * holds it (enum kvc_tier). tiers may be NULL. */
kvc_status kvc_lookup(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count,
                      uint32_t deadline_ms, size_t *prefix, uint8_t *tiers);

/* Bring leading blocks into RAM, as many as a bound on what is under way, and half of the RAM, allow; returns
 * at once, the work goes on in the daemon. *done: how many are on their way or there. */
kvc_status kvc_prefetch(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count,
                        uint32_t deadline_ms, size_t *done);

/* Keep blocks from being evicted until kvc_unpin or the end of this connection. *done: how many leading keys
 * are present and now pinned (the rest is not). */
kvc_status kvc_pin(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count, uint32_t deadline_ms,
                   size_t *done);
kvc_status kvc_unpin(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count, uint32_t deadline_ms,
                     size_t *done);

/* Forget blocks in every tier. *done: how many were there. */
kvc_status kvc_drop(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count, uint32_t deadline_ms,
                    size_t *done);

/* ---- asynchronous use ---------------------------------------------------------------------- */

/* Submit functions queue a request and return at once: KVC_OK, then exactly one completion with the same
 * `tag` follows; any other return: nothing was queued, no completion follows. Everything passed by pointer
 * (blocks, keys, tiers, memory) must stay until the completion is taken. One request of at most
 * kvc_daemon_info.batch blocks each: KVC_LIMIT above. */
kvc_status kvc_put_submit(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *tag);
kvc_status kvc_get_submit(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *tag);
kvc_status kvc_lookup_submit(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count,
                             uint32_t deadline_ms, uint8_t *tiers, void *tag);

struct kvc_completion {
	void *tag;
	kvc_status status;          /* of the request; blocks have their own */
	size_t prefix;              /* lookup */
	struct kvc_outcome outcome; /* put, get */
};

/* A descriptor that is readable when kvc_client_next may have something to do; valid while the client lives.
 * Never read it; poll it (level-triggered) from any event loop. -1: none to be had, kvc_last_error says why.
 */
int kvc_client_fd(struct kvc_client *client);

/* Take up to `max` completions, waiting at most timeout_ms (0: not at all). Also drives the connection:
 * an event loop calls it with 0 whenever the descriptor is readable. *count may be 0. kvc_last_error then
 * tells of the last completion taken that has failed. */
kvc_status kvc_client_next(struct kvc_client *client, struct kvc_completion *completions, size_t max,
                           uint32_t timeout_ms, size_t *count);

/* ---- statistics ---------------------------------------------------------------------------- */

struct kvc_stat {
	char name[64]; /* dotted, with the unit as last word where it has one: "ram.used_bytes" */
	double value;
};

/* Counters and gauges: of the daemon, if this process runs as root or as the daemon's user; and "tenant.*",
 * if all namespaces that this client has open are of one tenant. *stats is allocated; free it with
 * kvc_stats_free. */
kvc_status kvc_stats(struct kvc_client *client, uint32_t deadline_ms, struct kvc_stat **stats, size_t *count);

/* The same of one tenant: one of which a namespace is open, or any for root and the daemon's user. Errors:
 * KVC_ACCESS, and those of every call. */
kvc_status kvc_tenant_stats(struct kvc_client *client, const char *tenant, uint32_t deadline_ms,
                            struct kvc_stat **stats, size_t *count);
void kvc_stats_free(struct kvc_stat *stats);

/* ---- tenants ------------------------------------------------------------------------------- */

/* Forget every block of a tenant in every tier. Puts that are under way end with KVC_CANCELLED; what is put
 * meanwhile may stay. For root and the daemon's user, else KVC_ACCESS. Other errors: KVC_IO (nothing of it
 * can be read now, but it may come back after a crash), and those of every call. On KVC_DEADLINE it still
 * goes on. *dropped: how many blocks there were; may be NULL. */
kvc_status kvc_tenant_drop(struct kvc_client *client, const char *tenant, uint32_t deadline_ms,
                           uint64_t *dropped);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
