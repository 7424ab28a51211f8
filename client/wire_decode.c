/* Replies from protobuf. Whatever arrives is either converted whole and in range, or refused with the
 * reason: the rest of the client need not look again. Strings and arrays stay in the arena. */
#include <stdio.h>
#include <string.h>

#include "client/alloc.h"
#include "client/fail.h"
#include "client/wire.h"
#include "proto/kvcellar.pb-c.h"

struct decoder {
	const struct kvcc_expected *expected;
	const uint8_t *body;
	size_t bytes;
	struct kvcc_arena *arena;
	struct kvcc_reply *reply;
	const char **why;
};

static kvc_status bad(const struct decoder *decoder, const char *why)
{
	*decoder->why = why;
	return KVC_BAD_MESSAGE;
}

/* *message is typed by the caller through the descriptor. */
static kvc_status parse(const struct decoder *decoder, const ProtobufCMessageDescriptor *descriptor,
                        ProtobufCMessage **message)
{
	struct kvcc_arena *arena = decoder->arena;

	*message = protobuf_c_message_unpack(descriptor, &arena->allocator, decoder->bytes, decoder->body);
	if (*message)
		return KVC_OK;
	if (arena->exhausted)
		return KVC_NO_MEMORY;
	return bad(decoder, "a reply body that does not parse");
}

static kvc_status decode_failure(const struct decoder *decoder)
{
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__failure__descriptor, &message);
	const Kvcellar__Failure *failure = (const void *)message;

	if (status != KVC_OK)
		return status;
	decoder->reply->detail = failure->detail;
	decoder->reply->detail_bytes = strlen(failure->detail);
	return KVC_OK;
}

static kvc_status decode_hello(const struct decoder *decoder)
{
	struct kvcc_hello_reply *hello = &decoder->reply->hello;
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__hello_reply__descriptor, &message);
	const Kvcellar__HelloReply *body = (const void *)message;

	if (status != KVC_OK)
		return status;
	if (body->protocol != KVC_PROTOCOL_VERSION)
		return bad(decoder, "a protocol version that was not offered");
	if (body->boot_id.len != KVC_BOOT_ID_BYTES)
		return bad(decoder, "a boot id that is not 16 bytes long");
	if (!body->limits || body->limits->batch == 0 || body->limits->inflight == 0)
		return bad(decoder, "a hello without limits");
	memcpy(hello->boot_id, body->boot_id.data, KVC_BOOT_ID_BYTES);
	kvcc_text_copy(hello->version, sizeof(hello->version), body->version, strlen(body->version));
	hello->protocol = body->protocol;
	hello->planes = body->planes;
	hello->limits = (struct kvcc_limits){
	        .inline_bytes = body->limits->inline_bytes,
	        .region_bytes = body->limits->region_bytes,
	        .batch = body->limits->batch,
	        .inflight = body->limits->inflight,
	        .deadline_ms_max = body->limits->deadline_ms_max,
	};
	return KVC_OK;
}

static kvc_status decode_blocks(const struct decoder *decoder)
{
	struct kvcc_blocks_reply *blocks = &decoder->reply->blocks;
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__blocks_reply__descriptor, &message);
	const Kvcellar__BlocksReply *body = (const void *)message;

	if (status != KVC_OK)
		return status;
	if (body->n_statuses != decoder->expected->count)
		return bad(decoder, "another number of block statuses than blocks");
	blocks->statuses = body->statuses;
	blocks->outcome = (struct kvc_outcome){
	        .stored_bytes = body->stored_bytes,
	        .from_vram = body->tier_hits_vram,
	        .from_ram = body->tier_hits_ram,
	        .from_disk = body->tier_hits_disk,
	};
	if (decoder->expected->images && body->n_image_bytes != body->n_statuses)
		return bad(decoder, "another number of image lengths than images");
	blocks->image_bytes = decoder->expected->images ? body->image_bytes : NULL;
	for (size_t i = 0; i < body->n_statuses; i++) {
		if (body->statuses[i] >= KVC_STATUS_COUNT)
			return bad(decoder, "an unknown block status");
		blocks->outcome.blocks_ok += body->statuses[i] == KVC_OK;
	}
	return KVC_OK;
}

static kvc_status decode_keys(const struct decoder *decoder)
{
	struct kvcc_keys_reply *keys = &decoder->reply->keys;
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__keys_reply__descriptor, &message);
	const Kvcellar__KeysReply *body = (const void *)message;

	if (status != KVC_OK)
		return status;
	if (body->prefix > decoder->expected->count)
		return bad(decoder, "a prefix longer than the keys");
	keys->prefix = body->prefix;
	keys->tiers = body->tiers.data;
	if (decoder->expected->verb != KVC_VERB_LOOKUP)
		return KVC_OK;
	if (body->tiers.len != decoder->expected->count)
		return bad(decoder, "another number of tiers than keys");
	for (size_t i = 0; i < body->tiers.len; i++) {
		if (body->tiers.data[i] > KVC_TIER_DISK)
			return bad(decoder, "an unknown tier");
	}
	return KVC_OK;
}

static kvc_status decode_open(const struct decoder *decoder)
{
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__open_reply__descriptor, &message);
	const Kvcellar__OpenReply *body = (const void *)message;

	if (status != KVC_OK)
		return status;
	if (body->raw_bytes == 0 || body->image_bytes == 0)
		return bad(decoder, "an open namespace with blocks of 0 bytes");
	decoder->reply->open = (struct kvcc_open_reply){body->raw_bytes, body->image_bytes};
	return KVC_OK;
}

static kvc_status decode_stats(const struct decoder *decoder)
{
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__stats_reply__descriptor, &message);
	const Kvcellar__StatsReply *body = (const void *)message;
	struct kvc_stat *stats;

	if (status != KVC_OK)
		return status;
	stats = kvcc_alloc_zero(body->n_stats + 1, sizeof(*stats));
	if (!stats)
		return KVC_NO_MEMORY;
	(void)snprintf(stats[0].name, sizeof(stats[0].name), "uptime_ms");
	stats[0].value = (double)body->uptime_ms;
	for (size_t i = 0; i < body->n_stats; i++) {
		const Kvcellar__Stat *stat = body->stats[i];

		kvcc_text_copy(stats[i + 1].name, sizeof(stats->name), stat->name, strlen(stat->name));
		stats[i + 1].value = stat->value;
	}
	decoder->reply->stats = (struct kvcc_stats_reply){stats, body->n_stats + 1};
	return KVC_OK;
}

static kvc_status decode_dropped(const struct decoder *decoder)
{
	ProtobufCMessage *message;
	kvc_status status = parse(decoder, &kvcellar__drop_tenant_reply__descriptor, &message);

	if (status == KVC_OK)
		decoder->reply->dropped = ((const Kvcellar__DropTenantReply *)(const void *)message)->blocks;
	return status;
}

/* Replies that only say "done". */
static kvc_status decode_empty(const struct decoder *decoder)
{
	ProtobufCMessage *message;

	return parse(decoder, &kvcellar__ping__descriptor, &message);
}

typedef kvc_status (*decode_function)(const struct decoder *decoder);

static const decode_function decoders[KVC_VERB_COUNT] = {
        [KVC_VERB_HELLO] = decode_hello,  [KVC_VERB_PING] = decode_empty,
        [KVC_VERB_OPEN] = decode_open,    [KVC_VERB_CLOSE] = decode_empty,
        [KVC_VERB_ATTACH] = decode_empty, [KVC_VERB_DETACH] = decode_empty,
        [KVC_VERB_PUT] = decode_blocks,   [KVC_VERB_GET] = decode_blocks,
        [KVC_VERB_LOOKUP] = decode_keys,  [KVC_VERB_PREFETCH] = decode_keys,
        [KVC_VERB_PIN] = decode_keys,     [KVC_VERB_UNPIN] = decode_keys,
        [KVC_VERB_DROP] = decode_keys,    [KVC_VERB_STATS] = decode_stats,
        [KVC_VERB_POOL] = decode_empty,   [KVC_VERB_DROP_TENANT] = decode_dropped,
};

kvc_status kvcc_reply_decode(const struct kvcc_expected *expected, uint32_t status, const uint8_t *body,
                             size_t bytes, struct kvcc_arena *arena, struct kvcc_reply *reply,
                             const char **why)
{
	struct decoder decoder = {expected, body, bytes, arena, reply, why};

	KVCC_INVARIANT(expected->verb > KVC_VERB_UNSET && expected->verb < KVC_VERB_COUNT);
	*reply = (struct kvcc_reply){.status = (kvc_status)status};
	if (status >= KVC_STATUS_COUNT)
		return bad(&decoder, "an unknown status");
	if (status != KVC_OK)
		return decode_failure(&decoder);
	return decoders[expected->verb](&decoder);
}
