/* The frame header: 32 bytes to a struct and back. Pure, no state, any thread.
 *
 * Decoding refuses what can be refused without knowing the peer: everything else (direction, status,
 * payload length, whether a verb is allowed now) is the caller's, who knows its own limits. */
#include "frame.h"

#include <assert.h>
#include <stddef.h>

static_assert(KVC_FRAME_HEADER_BYTES == 4 + 2 + 2 + 4 + 4 + 8 + 8, "header fields fill the header");

static void store(uint8_t *out, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		out[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t load(const uint8_t *in, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)in[i] << (8 * i);
	return value;
}

const char *kvc_verb_name(uint16_t verb)
{
	static const char *const names[KVC_VERB_COUNT] = {
	        [KVC_VERB_HELLO] = "hello",       [KVC_VERB_PING] = "ping",
	        [KVC_VERB_OPEN] = "open",         [KVC_VERB_CLOSE] = "close",
	        [KVC_VERB_ATTACH] = "attach",     [KVC_VERB_DETACH] = "detach",
	        [KVC_VERB_PUT] = "put",           [KVC_VERB_GET] = "get",
	        [KVC_VERB_LOOKUP] = "lookup",     [KVC_VERB_PIN] = "pin",
	        [KVC_VERB_PREFETCH] = "prefetch", [KVC_VERB_DROP] = "drop",
	        [KVC_VERB_UNPIN] = "unpin",       [KVC_VERB_STATS] = "stats",
	        [KVC_VERB_POOL] = "pool",         [KVC_VERB_DROP_TENANT] = "drop tenant",
	};

	return verb < KVC_VERB_COUNT && names[verb] ? names[verb] : "?";
}

void kvc_frame_encode(const struct kvc_frame *frame, uint8_t out[KVC_FRAME_HEADER_BYTES])
{
	store(out, KVC_FRAME_MAGIC, 4);
	store(out + 4, frame->verb, 2);
	store(out + 6, frame->flags, 2);
	store(out + 8, frame->body_bytes, 4);
	store(out + 12, frame->status, 4);
	store(out + 16, frame->request_id, 8);
	store(out + 24, frame->payload_bytes, 8);
}

static kvc_status frame_check(uint32_t magic, const struct kvc_frame *frame, const char **why)
{
	if (magic != KVC_FRAME_MAGIC) {
		*why = "bad magic: not a kvcellar frame";
		return KVC_BAD_MESSAGE;
	}
	if (frame->verb == KVC_VERB_UNSET || frame->verb >= KVC_VERB_COUNT) {
		*why = "unknown verb";
		return KVC_BAD_MESSAGE;
	}
	if (frame->flags & ~(KVC_FRAME_REPLY | KVC_FRAME_FD)) {
		*why = "unknown flag";
		return KVC_BAD_MESSAGE;
	}
	if (frame->request_id == 0) {
		*why = "request id 0";
		return KVC_BAD_MESSAGE;
	}
	if (frame->body_bytes > KVC_FRAME_BODY_MAX) {
		*why = "frame over 64 KiB";
		return KVC_LIMIT;
	}
	return KVC_OK;
}

kvc_status kvc_frame_decode(const uint8_t in[KVC_FRAME_HEADER_BYTES], struct kvc_frame *frame,
                            const char **why)
{
	const char *ignored;
	struct kvc_frame f = {
	        .verb = (uint16_t)load(in + 4, 2),
	        .flags = (uint16_t)load(in + 6, 2),
	        .body_bytes = (uint32_t)load(in + 8, 4),
	        .status = (uint32_t)load(in + 12, 4),
	        .request_id = load(in + 16, 8),
	        .payload_bytes = load(in + 24, 8),
	};
	kvc_status status = frame_check((uint32_t)load(in, 4), &f, why ? why : &ignored);

	if (status == KVC_OK)
		*frame = f;
	return status;
}
