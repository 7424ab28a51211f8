/* Frames out of a byte stream: what arrives in pieces of any size comes out as headers with whole bodies,
 * and payload in pieces. Pure: owns its buffer and nothing else, does no I/O, needs an owner's exclusion. */
#ifndef KVCC_STREAM_H
#define KVCC_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"

#define KVCC_STREAM_BYTES (128u * 1024u) /* any header and body fit, and some frames behind them */

struct kvcc_stream {
	uint8_t *buffer; /* borrowed, KVCC_STREAM_BYTES */
	size_t start;    /* first byte not consumed */
	size_t end;      /* past the last byte received */
	enum { KVCC_STREAM_HEADER, KVCC_STREAM_BODY, KVCC_STREAM_PAYLOAD } state;
	struct kvc_frame frame;
	uint64_t payload_left;
	uint64_t payload_max; /* more in one frame is an error; the owner sets it */
};

enum kvcc_stream_event {
	KVCC_STREAM_MORE,  /* nothing whole is there: receive */
	KVCC_STREAM_FRAME, /* stream->frame, and its body at *bytes */
	KVCC_STREAM_CHUNK, /* payload of stream->frame at *bytes; payload_left says how much is still to come
	                    */
	KVCC_STREAM_BAD,   /* *why; the stream is of no more use */
};

void kvcc_stream_init(struct kvcc_stream *stream, uint8_t *buffer, uint64_t payload_max);

/* Where to receive: never 0 bytes if every event up to KVCC_STREAM_MORE was taken. Ends what earlier events
 * pointed to. */
uint8_t *kvcc_stream_space(struct kvcc_stream *stream, size_t *bytes);
void kvcc_stream_received(struct kvcc_stream *stream, size_t bytes);

/* The next event. *bytes stays valid until kvcc_stream_space. *why is a static text. */
enum kvcc_stream_event kvcc_stream_next(struct kvcc_stream *stream, const uint8_t **bytes, size_t *length,
                                        const char **why);

#endif
