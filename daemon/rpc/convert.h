/* Protobuf to core and back: convert*.c are the only files of the daemon that know the generated messages.
 *
 * Unpacking takes its memory from one bounded buffer that the next message reuses: what a parse function
 * returns is valid until the next one. Every field is checked here, except against things that only the
 * session knows (ids, counts of open objects, memory). Loop thread.
 *
 * Parse functions return KVC_BAD_MESSAGE (not a message of that type, or larger unpacked than the buffer),
 * KVC_INVALID, KVC_SHAPE, KVC_LIMIT or KVC_UNSUPPORTED with the reason in *problem. Fields that are not known
 * are ignored; of a field given twice the last one counts. */
#ifndef KVC_RPC_CONVERT_H
#define KVC_RPC_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/cache/cache.h"
#include "daemon/rpc/layout.h"
#include "daemon/rpc/problem.h"
#include "daemon/rpc/rpc.h"

struct kvc_convert;

kvc_status kvc_convert_open(struct kvc_convert **convert);
void kvc_convert_close(struct kvc_convert *convert);

/* Body of a frame. */
struct kvc_body {
	const uint8_t *data;
	size_t bytes;
};

/* As Plane and Ack on the wire. */
enum kvc_plane { KVC_PLANE_INLINE = 1, KVC_PLANE_SHM = 2, KVC_PLANE_CUDA = 3 };

/* ---- requests ------------------------------------------------------------------------------ */

struct kvc_hello_request {
	uint32_t protocol_min;
	uint32_t protocol_max;
	const char *client; /* printable ASCII, may be empty */
};

struct kvc_open_request {
	uint32_t id;
	struct kvc_ns_options options;
};

#define KVC_UUID_BYTES      16u
#define KVC_PAGE_TOKENS_MAX 65536u

struct kvc_attach_request {
	uint32_t id;
	enum kvc_plane plane; /* shm or cuda */
	uint64_t bytes;
	uint8_t device[KVC_UUID_BYTES]; /* cuda */
	struct kvc_gpu_import import;   /* cuda: all but its header */
};

/* Keys or values of a pool. */
struct kvc_pool_kind {
	const char *field; /* "key" or "value", for the text of a problem */
	struct kvc_gpu_strides strides;
	size_t count;      /* of bases: one a layer */
	const void *bases; /* read with kvc_pool_base_at */
};

struct kvc_pool_request {
	uint32_t id;
	uint32_t ns;
	uint64_t pages;
	uint32_t page_tokens;
	struct kvc_pool_kind key;
	struct kvc_pool_kind value; /* no bases: key-only */
	uint32_t marks;             /* words in the memfd that came along */
};

struct kvc_wire_base {
	uint32_t region;
	uint64_t offset;
};

struct kvc_bytes {
	const uint8_t *data;
	size_t bytes;
};

struct kvc_keys_request {
	uint32_t ns;
	uint32_t count;
	const void *keys; /* read with kvc_keys_at */
	bool prefetch;
};

/* When a request ends at the latest. */
struct kvc_deadline {
	uint32_t ms;         /* from arrival; never 0 */
	uint64_t expires_ns; /* of CLOCK_MONOTONIC; 0: none */
};

struct kvc_blocks_request {
	uint32_t ns;
	struct kvc_deadline deadline;
	enum kvc_plane plane;
	enum kvc_op_form form;  /* follows from plane and form */
	uint32_t region;        /* shm: memory. cuda: a pool */
	struct kvc_mark mark;   /* cuda: of the pool's marks */
	bool durable;           /* put */
	struct kvc_hints hints; /* put */
	struct kvc_wire_layout key_layout;
	struct kvc_wire_layout value_layout;
	uint32_t count;
	uint32_t page_count; /* cuda: of all blocks */
	const void *blocks;  /* read with kvc_blocks_at */
};

struct kvc_wire_block {
	struct kvc_bytes key;
	struct kvc_bytes parent; /* no bytes: none */
	uint32_t tokens;
	uint64_t key_offset;
	uint64_t value_offset;
	uint64_t image_bytes; /* image */
	uint32_t first_token; /* cuda, with the pages */
	uint32_t page_count;
	const uint32_t *pages;
};

struct kvc_tenant_request {
	char tenant[KVC_TENANT_NAME_BYTES];
};

kvc_status kvc_parse_hello(struct kvc_convert *convert, struct kvc_body body,
                           struct kvc_hello_request *request, struct kvc_problem *problem);
kvc_status kvc_parse_open(struct kvc_convert *convert, struct kvc_body body, struct kvc_open_request *request,
                          struct kvc_problem *problem);
kvc_status kvc_parse_close(struct kvc_convert *convert, struct kvc_body body, uint32_t *id,
                           struct kvc_problem *problem);
kvc_status kvc_parse_attach(struct kvc_convert *convert, struct kvc_body body,
                            struct kvc_attach_request *request, struct kvc_problem *problem);
kvc_status kvc_parse_pool(struct kvc_convert *convert, struct kvc_body body, struct kvc_pool_request *request,
                          struct kvc_problem *problem);
kvc_status kvc_parse_detach(struct kvc_convert *convert, struct kvc_body body, uint32_t *id,
                            struct kvc_problem *problem);
/* A deadline above the limit is cut to it. */
kvc_status kvc_parse_keys(struct kvc_convert *convert, struct kvc_body body,
                          const struct kvc_rpc_limits *limits, struct kvc_keys_request *request,
                          struct kvc_problem *problem);
kvc_status kvc_parse_put(struct kvc_convert *convert, struct kvc_body body,
                         const struct kvc_rpc_limits *limits, struct kvc_blocks_request *request,
                         struct kvc_problem *problem);
kvc_status kvc_parse_get(struct kvc_convert *convert, struct kvc_body body,
                         const struct kvc_rpc_limits *limits, struct kvc_blocks_request *request,
                         struct kvc_problem *problem);

/* Stats, whose tenant may be empty, and drop of a tenant. */
kvc_status kvc_parse_stats(struct kvc_convert *convert, struct kvc_body body,
                           struct kvc_tenant_request *request, struct kvc_problem *problem);
kvc_status kvc_parse_drop_tenant(struct kvc_convert *convert, struct kvc_body body,
                                 struct kvc_tenant_request *request, struct kvc_problem *problem);

/* Ping: any well-formed message. */
kvc_status kvc_parse_empty(struct kvc_convert *convert, struct kvc_body body, struct kvc_problem *problem);

struct kvc_bytes kvc_keys_at(const struct kvc_keys_request *request, uint32_t i);
struct kvc_wire_block kvc_blocks_at(const struct kvc_blocks_request *request, uint32_t i);
struct kvc_wire_base kvc_pool_base_at(const struct kvc_pool_kind *kind, size_t layer);

/* ---- replies ------------------------------------------------------------------------------- */

struct kvc_hello_reply {
	const uint8_t *boot_id;
	const char *version;
	const struct kvc_rpc_limits *limits;
	bool cuda; /* the daemon has a GPU */
};

struct kvc_blocks_reply {
	uint32_t count;
	const uint32_t *statuses;
	uint64_t stored_bytes;
	uint32_t ram;
	uint32_t disk;
	uint32_t vram;
	const uint64_t *image_bytes; /* get of images: of each block; else NULL */
};

struct kvc_keys_reply {
	uint32_t prefix;
	uint32_t count; /* of tiers: 0 for all but look-ups */
	const uint8_t *tiers;
};

struct kvc_stats_reply {
	const char *version;
	uint64_t uptime_ms;
	struct kvc_stats *stats; /* of the daemon; NULL: left out */
	uint32_t tenant_count;
	struct kvc_tenant_stat tenant_stats[KVC_TENANT_STATS];
};

/* Room that the reply needs at most, and the encoding itself, which returns its length. */
enum {
	KVC_PACK_HELLO_MAX = 512,
	KVC_PACK_FAILURE_MAX = KVC_PROBLEM_BYTES + 8,
	KVC_PACK_OPEN_MAX = 32,
	KVC_PACK_DROP_TENANT_MAX = 16
};

static inline size_t kvc_pack_blocks_max(uint32_t count)
{
	return 80 + (size_t)count * (2 + 11);
}

static inline size_t kvc_pack_keys_max(uint32_t count)
{
	return 32 + (size_t)count;
}

size_t kvc_pack_failure(const struct kvc_problem *problem, uint8_t *out);
size_t kvc_pack_hello(const struct kvc_hello_reply *reply, uint8_t *out);
size_t kvc_pack_drop_tenant(uint64_t blocks, uint8_t *out);
size_t kvc_pack_open(uint64_t raw_bytes, uint64_t image_bytes, uint8_t *out);
size_t kvc_pack_blocks(const struct kvc_blocks_reply *reply, uint8_t *out);
size_t kvc_pack_keys(const struct kvc_keys_reply *reply, uint8_t *out);

/* At most KVC_FRAME_BODY_MAX. Overwrites what was unpacked last. */
size_t kvc_pack_stats(struct kvc_convert *convert, const struct kvc_stats_reply *reply, uint8_t *out);

#endif
