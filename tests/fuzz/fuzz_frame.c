/* Frames out of a hostile stream that arrives in pieces. The first byte of the input says how large the
 * pieces are, the rest is the stream. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/stream.h"
#include "proto/frame.h"

#define PAYLOAD_MAX 100000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void must(int holds)
{
	if (!holds)
		abort();
}

/* A header that was accepted says the same when it is written again. */
static void check_header(const struct kvc_frame *frame)
{
	uint8_t again[KVC_FRAME_HEADER_BYTES];
	struct kvc_frame back;

	kvc_frame_encode(frame, again);
	must(kvc_frame_decode(again, &back, NULL) == KVC_OK);
	must(back.verb == frame->verb && back.flags == frame->flags && back.request_id == frame->request_id);
	must(back.body_bytes == frame->body_bytes && back.payload_bytes == frame->payload_bytes);
	must(frame->body_bytes <= KVC_FRAME_BODY_MAX && frame->payload_bytes <= PAYLOAD_MAX);
	must(frame->request_id != 0 && kvc_verb_name(frame->verb)[0] != '?');
}

/* False: the stream was refused. *delivered counts what came out of it. */
static int drain(struct kvcc_stream *stream, uint64_t *delivered)
{
	const uint8_t *bytes = NULL;
	const char *why = NULL;
	size_t length = 0;

	for (;;) {
		switch (kvcc_stream_next(stream, &bytes, &length, &why)) {
		case KVCC_STREAM_MORE:
			return 1;
		case KVCC_STREAM_BAD:
			must(why != NULL);
			return 0;
		case KVCC_STREAM_FRAME:
			check_header(&stream->frame);
			must(length == stream->frame.body_bytes);
			*delivered += KVC_FRAME_HEADER_BYTES + length;
			break;
		case KVCC_STREAM_CHUNK:
			must(length > 0);
			*delivered += length;
			break;
		}
		must(bytes >= stream->buffer && bytes + length <= stream->buffer + KVCC_STREAM_BYTES);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static uint8_t buffer[KVCC_STREAM_BYTES];
	struct kvcc_stream stream;
	uint64_t delivered = 0;
	size_t piece = bytes > 0 ? (size_t)data[0] * 16 + 1 : 1;

	kvcc_stream_init(&stream, buffer, PAYLOAD_MAX);
	for (size_t at = 1; at < bytes;) {
		size_t space;
		uint8_t *to = kvcc_stream_space(&stream, &space);
		size_t n = bytes - at < piece ? bytes - at : piece;

		must(space > 0);
		n = n < space ? n : space;
		memcpy(to, data + at, n);
		kvcc_stream_received(&stream, n);
		at += n;
		if (!drain(&stream, &delivered))
			return 0;
		must(delivered <= at);
	}
	return 0;
}
