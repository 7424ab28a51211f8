/* Reassembly of frames. The buffer is linear: what is left of a frame moves to its start before the next
 * receive, at most one header and body, usually nothing.
 *
 *   HEADER --32 bytes--> BODY --whole body--> HEADER
 *                             `-- with payload --> PAYLOAD --last byte--> HEADER */
#include "client/stream.h"

#include <assert.h>
#include <string.h>

static_assert(KVCC_STREAM_BYTES >= KVC_FRAME_HEADER_BYTES + KVC_FRAME_BODY_MAX, "a whole frame fits");

void kvcc_stream_init(struct kvcc_stream *stream, uint8_t *buffer, uint64_t payload_max)
{
	*stream = (struct kvcc_stream){.buffer = buffer, .payload_max = payload_max};
}

uint8_t *kvcc_stream_space(struct kvcc_stream *stream, size_t *bytes)
{
	size_t kept = stream->end - stream->start;

	if (stream->start > 0) {
		memmove(stream->buffer, stream->buffer + stream->start, kept);
		stream->start = 0;
		stream->end = kept;
	}
	*bytes = KVCC_STREAM_BYTES - stream->end;
	return stream->buffer + stream->end;
}

void kvcc_stream_received(struct kvcc_stream *stream, size_t bytes)
{
	stream->end += bytes;
}

static enum kvcc_stream_event take_header(struct kvcc_stream *stream, const char **why)
{
	if (stream->end - stream->start < KVC_FRAME_HEADER_BYTES)
		return KVCC_STREAM_MORE;
	if (kvc_frame_decode(stream->buffer + stream->start, &stream->frame, why) != KVC_OK)
		return KVCC_STREAM_BAD;
	if (stream->frame.payload_bytes > stream->payload_max) {
		*why = "payload larger than announced";
		return KVCC_STREAM_BAD;
	}
	stream->start += KVC_FRAME_HEADER_BYTES;
	stream->state = KVCC_STREAM_BODY;
	return KVCC_STREAM_FRAME;
}

static enum kvcc_stream_event take_body(struct kvcc_stream *stream, const uint8_t **bytes, size_t *length)
{
	if (stream->end - stream->start < stream->frame.body_bytes)
		return KVCC_STREAM_MORE;
	*bytes = stream->buffer + stream->start;
	*length = stream->frame.body_bytes;
	stream->start += stream->frame.body_bytes;
	stream->payload_left = stream->frame.payload_bytes;
	stream->state = stream->payload_left > 0 ? KVCC_STREAM_PAYLOAD : KVCC_STREAM_HEADER;
	return KVCC_STREAM_FRAME;
}

static enum kvcc_stream_event take_chunk(struct kvcc_stream *stream, const uint8_t **bytes, size_t *length)
{
	size_t there = stream->end - stream->start;

	if (there == 0)
		return KVCC_STREAM_MORE;
	if (there > stream->payload_left)
		there = (size_t)stream->payload_left;
	*bytes = stream->buffer + stream->start;
	*length = there;
	stream->start += there;
	stream->payload_left -= there;
	if (stream->payload_left == 0)
		stream->state = KVCC_STREAM_HEADER;
	return KVCC_STREAM_CHUNK;
}

enum kvcc_stream_event kvcc_stream_next(struct kvcc_stream *stream, const uint8_t **bytes, size_t *length,
                                        const char **why)
{
	enum kvcc_stream_event event;

	if (stream->state == KVCC_STREAM_PAYLOAD)
		return take_chunk(stream, bytes, length);
	if (stream->state == KVCC_STREAM_HEADER) {
		event = take_header(stream, why);
		if (event != KVCC_STREAM_FRAME)
			return event;
	}
	return take_body(stream, bytes, length);
}
