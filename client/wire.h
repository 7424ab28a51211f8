/* Bodies of frames: the client's structs to protobuf and protobuf to structs. Nothing else of the client
 * knows protobuf. Pure but for the heap; any thread. Replies are hostile until decoded here. */
#ifndef KVCC_WIRE_H
#define KVCC_WIRE_H

#include "client/arena.h"
#include "client/cuda_driver.h"
#include "kvcellar_cuda.h"
#include "proto/frame.h"

/* A growing buffer that holds one frame: header, body, payload. */
struct kvcc_buffer {
	uint8_t *bytes;
	size_t length;
	size_t capacity;
};

/* Room for `bytes` in all; KVC_NO_MEMORY leaves the buffer as it was. */
kvc_status kvcc_buffer_reserve(struct kvcc_buffer *buffer, size_t bytes);
kvc_status kvcc_buffer_copy(struct kvcc_buffer *to, const struct kvcc_buffer *from);

/* The encoders leave KVC_FRAME_HEADER_BYTES free at the start and set length to header + body.
 * KVC_LIMIT: the body would be over KVC_FRAME_BODY_MAX. KVC_NO_MEMORY. */

kvc_status kvcc_wire_hello(const char *name, struct kvcc_buffer *out);
kvc_status kvcc_wire_open(uint32_t id, const struct kvc_namespace_options *options, struct kvcc_buffer *out);
kvc_status kvcc_wire_attach(uint32_t region, uint64_t bytes, struct kvcc_buffer *out);
kvc_status kvcc_wire_close(uint32_t id, struct kvcc_buffer *out); /* also of Detach: the same message */
kvc_status kvcc_wire_empty(struct kvcc_buffer *out);              /* Ping, StatsRequest */

/* An attach of device memory, by handle or by chunks. */
struct kvcc_wire_device {
	const uint8_t *uuid;
	uint64_t bytes;
	const uint8_t *handle; /* NULL: chunks */
	uint32_t chunks;
	const uint64_t *chunk_bytes;
};
kvc_status kvcc_wire_attach_device(uint32_t region, const struct kvcc_wire_device *device,
                                   struct kvcc_buffer *out);

struct kvcc_wire_base {
	uint32_t region;
	uint64_t offset;
};

#define KVCC_POOL_MARKS 16u /* words; the daemon takes 1,024 */

/* When the stream has come to a request that word of the pool's marks is `value` or more. */
struct kvcc_mark {
	uint32_t word;
	uint32_t value;
};

struct kvcc_wire_pool {
	uint8_t uuid[KVCC_CUDA_UUID_BYTES]; /* of its regions' GPU */
	uint32_t ns;
	uint64_t pages;
	uint32_t page_tokens;
	uint32_t layers;
	bool values;
	struct kvc_pool_strides key_strides;
	struct kvc_pool_strides value_strides;
	struct kvcc_wire_base *bases; /* of keys, one a layer, then of values */
};
kvc_status kvcc_wire_pool(uint32_t id, const struct kvcc_wire_pool *pool, struct kvcc_buffer *out);

/* A put or get. */
struct kvcc_wire_blocks {
	uint16_t verb;
	uint32_t ns;
	uint32_t deadline_ms;
	uint64_t expires_ns;
	uint32_t region;       /* 0: the inline plane. A pool if the transfer has one */
	struct kvcc_mark mark; /* pool: what the daemon is to wait for */
	const struct kvc_transfer *transfer;
	const struct kvc_block *blocks;
	size_t count;
};
kvc_status kvcc_wire_blocks(const struct kvcc_wire_blocks *request, struct kvcc_buffer *out);

/* Stats or drop of a tenant, by verb. */
kvc_status kvcc_wire_tenant(uint16_t verb, const char *tenant, struct kvcc_buffer *out);

/* How many of the blocks fit one frame, at most `count`. */
size_t kvcc_wire_blocks_fit(const struct kvcc_wire_blocks *request);

struct kvcc_wire_keys {
	uint32_t ns;
	uint32_t deadline_ms;
	bool prefetch; /* lookup */
	const struct kvc_key *keys;
	size_t count;
};
kvc_status kvcc_wire_keys(const struct kvcc_wire_keys *request, struct kvcc_buffer *out);
size_t kvcc_wire_keys_fit(const struct kvc_key *keys, size_t count);

/* Turn the frame of a put that was encoded here into that of a drop of those of its keys whose status is
 * KVC_OK, of all if statuses is NULL; in place, because it must not fail. Returns how many keys that are. */
size_t kvcc_wire_put_to_drop(struct kvcc_buffer *frame, const uint32_t *statuses, size_t count);

/* ---- replies ------------------------------------------------------------------------------- */

struct kvcc_limits {
	uint64_t inline_bytes;
	uint64_t region_bytes;
	uint32_t batch;
	uint32_t inflight;
	uint32_t deadline_ms_max;
};

struct kvcc_hello_reply {
	uint8_t boot_id[KVC_BOOT_ID_BYTES];
	char version[32];
	uint32_t protocol;
	uint32_t planes;
	struct kvcc_limits limits;
};

struct kvcc_blocks_reply {
	const uint32_t *statuses;    /* as many as the request had blocks, each a known status */
	const uint64_t *image_bytes; /* get of images: of each, at most its room; else NULL */
	struct kvc_outcome outcome;
};

struct kvcc_keys_reply {
	size_t prefix;        /* at most the keys of the request */
	const uint8_t *tiers; /* lookup: as many as keys, each a known tier */
};

struct kvcc_open_reply {
	uint64_t raw_bytes;
	uint64_t image_bytes;
};

struct kvcc_stats_reply {
	struct kvc_stat *stats; /* heap, the receiver's */
	size_t count;
};

/* What was asked, so far as the form of the answer depends on it. */
struct kvcc_expected {
	uint16_t verb;
	size_t count; /* blocks or keys */
	bool images;  /* a get of images */
};

struct kvcc_reply {
	kvc_status status;  /* of the request; not KVC_OK: only detail is set */
	const char *detail; /* in the arena, with detail_bytes */
	size_t detail_bytes;
	union {
		struct kvcc_hello_reply hello;
		struct kvcc_blocks_reply blocks;
		struct kvcc_keys_reply keys;
		struct kvcc_open_reply open;
		struct kvcc_stats_reply stats;
		uint64_t dropped; /* blocks of a tenant */
	};
};

/* Decode the body of a reply with frame status `status`. Pointers in *reply live until the arena is reset.
 * KVC_BAD_MESSAGE: the daemon breaks the protocol, *why (static text) says how. KVC_NO_MEMORY. */
kvc_status kvcc_reply_decode(const struct kvcc_expected *expected, uint32_t status, const uint8_t *body,
                             size_t bytes, struct kvcc_arena *arena, struct kvcc_reply *reply,
                             const char **why);

#endif
