/* Bodies of replies from a hostile daemon. The input: verb, number of blocks or keys asked for (2 bytes; the
 * top bit: images), status, body. What is accepted must be in range, and is read whole, so that the
 * sanitizers see what is not there. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void must(int holds)
{
	if (!holds)
		abort();
}

static volatile uint64_t sink;

static void check_blocks(const struct kvcc_expected *expected, const struct kvcc_blocks_reply *blocks)
{
	uint64_t ok = 0;

	for (size_t i = 0; i < expected->count; i++) {
		must(blocks->statuses[i] < KVC_STATUS_COUNT);
		ok += blocks->statuses[i] == KVC_OK;
	}
	must(ok == blocks->outcome.blocks_ok);
	must(expected->images == (blocks->image_bytes != NULL || (expected->images && expected->count == 0)));
	for (size_t i = 0; expected->images && i < expected->count; i++)
		sink += blocks->image_bytes[i];
}

static void check_keys(const struct kvcc_expected *expected, const struct kvcc_keys_reply *keys)
{
	must(keys->prefix <= expected->count);
	for (size_t i = 0; expected->verb == KVC_VERB_LOOKUP && i < expected->count; i++)
		must(keys->tiers[i] <= KVC_TIER_DISK);
}

static void check_stats(const struct kvcc_stats_reply *stats)
{
	for (size_t i = 0; i < stats->count; i++)
		must(memchr(stats->stats[i].name, '\0', sizeof(stats->stats[i].name)) != NULL);
	kvc_stats_free(stats->stats);
}

static void check(const struct kvcc_expected *expected, const struct kvcc_reply *reply)
{
	if (reply->status != KVC_OK) {
		must(strlen(reply->detail) == reply->detail_bytes);
		return;
	}
	switch (expected->verb) {
	case KVC_VERB_HELLO:
		must(memchr(reply->hello.version, '\0', sizeof(reply->hello.version)) != NULL);
		must(reply->hello.limits.batch > 0 && reply->hello.limits.inflight > 0);
		break;
	case KVC_VERB_OPEN:
		must(reply->open.raw_bytes > 0 && reply->open.image_bytes > 0);
		break;
	case KVC_VERB_PUT:
	case KVC_VERB_GET:
		check_blocks(expected, &reply->blocks);
		break;
	case KVC_VERB_STATS:
		check_stats(&reply->stats);
		break;
	case KVC_VERB_PING:
	case KVC_VERB_CLOSE:
	case KVC_VERB_ATTACH:
	case KVC_VERB_DETACH:
	case KVC_VERB_POOL:
	case KVC_VERB_DROP_TENANT:
		break;
	default:
		check_keys(expected, &reply->keys);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct kvcc_arena arena;
	struct kvcc_expected expected;
	struct kvcc_reply reply;
	const char *why = NULL;
	kvc_status status;

	if (bytes < 4 || bytes - 4 > KVC_FRAME_BODY_MAX)
		return 0;
	expected.verb = (uint16_t)(data[0] % (KVC_VERB_COUNT - 1) + 1);
	expected.count = (size_t)data[1] | (size_t)(data[2] & 0x7F) << 8;
	expected.images = expected.verb == KVC_VERB_GET && data[2] & 0x80;
	kvcc_arena_init(&arena);
	status = kvcc_reply_decode(&expected, data[3], data + 4, bytes - 4, &arena, &reply, &why);
	if (status == KVC_OK)
		check(&expected, &reply);
	else
		must(status == KVC_BAD_MESSAGE &&
		     why != NULL); /* never out of memory: the arena is bounded */
	must(arena.total <= KVCC_ARENA_BYTES_MAX);
	kvcc_arena_reset(&arena);
	return 0;
}
