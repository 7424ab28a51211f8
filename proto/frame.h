/* The frame: what the socket carries. A 32-byte header, a protobuf body, and on the inline plane a payload.
 *
 * Pure: bytes in, bytes out; shared by daemon and client. Integers are little-endian.
 *
 *   offset  bytes
 *        0      4  magic "KVCF"
 *        4      2  verb (enum kvc_verb); replies carry the verb of their request
 *        6      2  flags: bit 0 reply, bit 1 descriptors come with this frame (one,
 *                  or one for each chunk of an attach on the cuda plane)
 *        8      4  body length, at most KVC_FRAME_BODY_MAX
 *       12      4  status of a reply (kvc_status); 0 in requests
 *       16      8  request id, chosen by the client, not 0
 *       24      8  payload length, at most the inline limit */
#ifndef KVC_FRAME_H
#define KVC_FRAME_H

#include <stdint.h>

#include "kvc_status.h"

#define KVC_FRAME_MAGIC        0x4643564Bu /* "KVCF" */
#define KVC_FRAME_HEADER_BYTES 32u
#define KVC_FRAME_BODY_MAX     (65536u - KVC_FRAME_HEADER_BYTES) /* header and body together: 64 KiB */
#define KVC_PROTOCOL_VERSION   1u
#define KVC_KEY_BYTES_MAX      64u
#define KVC_TENANT_BYTES_MAX   64u
#define KVC_MODEL_BYTES_MAX    256u
#define KVC_BOOT_ID_BYTES      16u

enum kvc_verb {
	KVC_VERB_UNSET = 0,
	KVC_VERB_HELLO = 1,
	KVC_VERB_PING = 2,
	KVC_VERB_OPEN = 3,
	KVC_VERB_CLOSE = 4,
	KVC_VERB_ATTACH = 5,
	KVC_VERB_DETACH = 6,
	KVC_VERB_PUT = 7,
	KVC_VERB_GET = 8,
	KVC_VERB_LOOKUP = 9,
	KVC_VERB_PREFETCH = 10,
	KVC_VERB_PIN = 11,
	KVC_VERB_UNPIN = 12,
	KVC_VERB_DROP = 13,
	KVC_VERB_STATS = 14,
	KVC_VERB_POOL = 15,
	KVC_VERB_DROP_TENANT = 16,
	KVC_VERB_COUNT
};

enum { KVC_FRAME_REPLY = 1u, KVC_FRAME_FD = 2u };

struct kvc_frame {
	uint16_t verb;
	uint16_t flags;
	uint32_t body_bytes;
	uint32_t status;
	uint64_t request_id;
	uint64_t payload_bytes;
};

/* Name of a verb ("put"), "?" for an unknown number. */
const char *kvc_verb_name(uint16_t verb);

void kvc_frame_encode(const struct kvc_frame *frame, uint8_t out[KVC_FRAME_HEADER_BYTES]);

/* KVC_OK, or KVC_BAD_MESSAGE (magic, verb, flags, request id 0) or KVC_LIMIT (body length); on failure
 * *frame is untouched and *why, if not NULL, is a static text that says what was wrong. The caller checks
 * direction (reply bit), status and payload length against its own limits. */
kvc_status kvc_frame_decode(const uint8_t in[KVC_FRAME_HEADER_BYTES], struct kvc_frame *frame,
                            const char **why);

#endif
