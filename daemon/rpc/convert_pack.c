/* Replies. The caller has reserved the room that each needs at most. */
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/rpc/convert_private.h"
#include "proto/frame.h"

static size_t pack(const ProtobufCMessage *message, uint8_t *out, size_t room)
{
	KVC_INVARIANT(protobuf_c_message_get_packed_size(message) <= room);
	return protobuf_c_message_pack(message, out);
}

/* protobuf-c takes strings and bytes without const, and only reads them. */
static char *text_of(const char *text)
{
	return (char *)(uintptr_t)text;
}

static ProtobufCBinaryData bytes_of(const uint8_t *data, size_t bytes)
{
	return (ProtobufCBinaryData){bytes, (uint8_t *)(uintptr_t)data};
}

size_t kvc_pack_failure(const struct kvc_problem *problem, uint8_t *out)
{
	Kvcellar__Failure failure;

	kvcellar__failure__init(&failure);
	failure.detail = text_of(problem->detail);
	return pack(&failure.base, out, KVC_PACK_FAILURE_MAX);
}

size_t kvc_pack_hello(const struct kvc_hello_reply *reply, uint8_t *out)
{
	Kvcellar__HelloReply hello;
	Kvcellar__Limits limits;

	kvcellar__hello_reply__init(&hello);
	kvcellar__limits__init(&limits);
	hello.protocol = KVC_PROTOCOL_VERSION;
	hello.boot_id = bytes_of(reply->boot_id, KVC_BOOT_ID_BYTES);
	hello.version = text_of(reply->version);
	hello.planes = 1u << KVC_PLANE_INLINE | 1u << KVC_PLANE_SHM;
	hello.planes |= reply->cuda ? 1u << KVC_PLANE_CUDA : 0;
	hello.limits = &limits;
	limits.frame_bytes = KVC_FRAME_BODY_MAX;
	limits.inline_bytes = reply->limits->inline_bytes;
	limits.batch = reply->limits->batch;
	limits.inflight = reply->limits->inflight;
	limits.key_bytes = KVC_KEY_BYTES_MAX;
	limits.regions = reply->limits->regions;
	limits.region_bytes = reply->limits->region_bytes;
	limits.namespaces = reply->limits->namespaces;
	limits.deadline_ms_default = reply->limits->deadline_ms_default;
	limits.deadline_ms_max = reply->limits->deadline_ms_max;
	return pack(&hello.base, out, KVC_PACK_HELLO_MAX);
}

size_t kvc_pack_open(uint64_t raw_bytes, uint64_t image_bytes, uint8_t *out)
{
	Kvcellar__OpenReply reply;

	kvcellar__open_reply__init(&reply);
	reply.raw_bytes = raw_bytes;
	reply.image_bytes = image_bytes;
	return pack(&reply.base, out, KVC_PACK_OPEN_MAX);
}

size_t kvc_pack_drop_tenant(uint64_t blocks, uint8_t *out)
{
	Kvcellar__DropTenantReply reply;

	kvcellar__drop_tenant_reply__init(&reply);
	reply.blocks = blocks;
	return pack(&reply.base, out, KVC_PACK_DROP_TENANT_MAX);
}

size_t kvc_pack_blocks(const struct kvc_blocks_reply *reply, uint8_t *out)
{
	Kvcellar__BlocksReply blocks;

	kvcellar__blocks_reply__init(&blocks);
	blocks.n_statuses = reply->count;
	blocks.statuses = (uint32_t *)(uintptr_t)reply->statuses;
	blocks.stored_bytes = reply->stored_bytes;
	blocks.tier_hits_ram = reply->ram;
	blocks.tier_hits_disk = reply->disk;
	blocks.tier_hits_vram = reply->vram;
	blocks.n_image_bytes = reply->image_bytes ? reply->count : 0;
	blocks.image_bytes = (uint64_t *)(uintptr_t)reply->image_bytes;
	return pack(&blocks.base, out, kvc_pack_blocks_max(reply->count));
}

size_t kvc_pack_keys(const struct kvc_keys_reply *reply, uint8_t *out)
{
	Kvcellar__KeysReply keys;

	kvcellar__keys_reply__init(&keys);
	keys.prefix = reply->prefix;
	keys.tiers = bytes_of(reply->tiers, reply->count);
	return pack(&keys.base, out, kvc_pack_keys_max(reply->count));
}

/* Counters as they are now, built in the memory that requests are unpacked in. */
static void stats_fill(struct kvc_convert *convert, const struct kvc_stats_reply *from,
                       Kvcellar__StatsReply *reply)
{
	uint32_t totals = from->stats ? kvc_stats_count(from->stats) : 0;
	uint32_t count = totals + from->tenant_count;
	Kvcellar__Stat *cells = kvc_convert_room(convert, (count + 1) * sizeof *cells);
	Kvcellar__Stat **pointers = kvc_convert_room(convert, (count + 1) * sizeof(Kvcellar__Stat *));

	KVC_INVARIANT(cells && pointers); /* at most KVC_STATS_MAX + KVC_TENANT_STATS */
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_tenant_stat stat;

		if (i < totals)
			kvc_stats_read(from->stats, i, &stat.name, &stat.value);
		else
			stat = from->tenant_stats[i - totals];
		kvcellar__stat__init(&cells[i]);
		cells[i].name = text_of(stat.name);
		cells[i].value = (double)stat.value;
		pointers[i] = &cells[i];
	}
	reply->n_stats = count;
	reply->stats = pointers;
}

size_t kvc_pack_stats(struct kvc_convert *convert, const struct kvc_stats_reply *reply, uint8_t *out)
{
	Kvcellar__StatsReply stats;

	kvcellar__stats_reply__init(&stats);
	convert->used = 0;
	stats.version = text_of(reply->version);
	stats.uptime_ms = reply->uptime_ms;
	stats_fill(convert, reply, &stats);
	return pack(&stats.base, out, KVC_FRAME_BODY_MAX);
}
