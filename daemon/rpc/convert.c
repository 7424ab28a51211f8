/* Bounded unpacking, and the small requests. */
#include "daemon/rpc/convert.h"

#include <assert.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/convert_private.h"
#include "proto/frame.h"

/* A message may take 128 times the frame that it came in. Unpacking a batch of the largest size needs a
 * fraction of it; a frame full of two-byte blocks is what runs into it. */
#define MEMORY_BYTES (128u * 65536u)

enum { CLIENT_NAME_MAX = 64, UNIT = 16 };

/* ---- memory -------------------------------------------------------------------------------- */

void *kvc_convert_room(struct kvc_convert *convert, size_t bytes)
{
	size_t rounded;
	void *room;

	if (bytes > MEMORY_BYTES || MEMORY_BYTES - convert->used < bytes + UNIT) {
		convert->exhausted = true;
		return NULL;
	}
	rounded = (bytes + UNIT - 1) / UNIT * UNIT;
	room = convert->memory + convert->used;
	convert->used += rounded;
	return room;
}

static void *bump_alloc(void *context, size_t bytes)
{
	return kvc_convert_room(context, bytes);
}

/* All is given back at once, by the next message. */
static void bump_free(void *context, void *memory)
{
	(void)context;
	(void)memory;
}

kvc_status kvc_convert_open(struct kvc_convert **convert)
{
	struct kvc_convert *opened = kvc_calloc(1, sizeof *opened);

	if (!opened)
		return KVC_NO_MEMORY;
	opened->memory = kvc_calloc(1, MEMORY_BYTES);
	if (!opened->memory) {
		kvc_free(opened);
		return KVC_NO_MEMORY;
	}
	opened->allocator = (ProtobufCAllocator){bump_alloc, bump_free, opened};
	*convert = opened;
	return KVC_OK;
}

void kvc_convert_close(struct kvc_convert *convert)
{
	if (!convert)
		return;
	kvc_free(convert->memory);
	kvc_free(convert);
}

const void *kvc_convert_unpack(struct kvc_convert *convert, const ProtobufCMessageDescriptor *type,
                               struct kvc_body body, struct kvc_problem *problem)
{
	const void *message;

	convert->used = 0;
	convert->exhausted = false;
	message = protobuf_c_message_unpack(type, &convert->allocator, body.bytes, body.data);
	if (!message && convert->exhausted)
		kvc_problem_set(problem, KVC_BAD_MESSAGE, "the message unpacks to more than %u bytes",
		                MEMORY_BYTES);
	else if (!message)
		kvc_problem_set(problem, KVC_BAD_MESSAGE, "the body is not a well-formed %s", type->name);
	return message;
}

/* ---- strings as they came ------------------------------------------------------------------ */

/* The messages were unpacked before, so that they are known to be well-formed: running out of bytes is the
 * end all the same. */
static uint64_t varint_next(struct kvc_body *message)
{
	uint64_t value = 0;

	for (unsigned shift = 0; message->bytes && shift < 64; shift += 7) {
		uint8_t byte = *message->data++;

		message->bytes--;
		value |= (uint64_t)(byte & 0x7F) << shift;
		if (!(byte & 0x80))
			break;
	}
	return value;
}

static void skip(struct kvc_body *message, uint64_t bytes)
{
	size_t skipped = bytes < message->bytes ? (size_t)bytes : message->bytes;

	message->data += skipped;
	message->bytes -= skipped;
}

bool kvc_convert_field_next(struct kvc_body *message, uint32_t field, struct kvc_body *value)
{
	enum { VARINT = 0, FIXED64 = 1, LENGTH = 2 };

	while (message->bytes) {
		uint64_t tag = varint_next(message);
		const uint8_t *start;
		uint64_t bytes;

		if ((tag & 7) == VARINT) {
			varint_next(message);
			continue;
		}
		bytes = (tag & 7) == LENGTH ? varint_next(message) : (tag & 7) == FIXED64 ? 8 : 4;
		start = message->data;
		skip(message, bytes);
		if ((tag & 7) != LENGTH || tag >> 3 != field)
			continue;
		*value = (struct kvc_body){start, (size_t)(message->data - start)};
		return true;
	}
	return false;
}

bool kvc_convert_has_zero(struct kvc_body message, uint32_t field)
{
	struct kvc_body value;

	while (kvc_convert_field_next(&message, field, &value)) {
		if (value.bytes && memchr(value.data, 0, value.bytes))
			return true;
	}
	return false;
}

/* ---- small requests ------------------------------------------------------------------------ */

static bool name_is_printable(const char *name)
{
	size_t bytes = strlen(name);

	for (size_t i = 0; i < bytes; i++) {
		if (name[i] < 0x20 || name[i] > 0x7E)
			return false;
	}
	return bytes <= CLIENT_NAME_MAX;
}

kvc_status kvc_parse_hello(struct kvc_convert *convert, struct kvc_body body,
                           struct kvc_hello_request *request, struct kvc_problem *problem)
{
	const Kvcellar__Hello *hello =
	        kvc_convert_unpack(convert, &kvcellar__hello__descriptor, body, problem);

	if (!hello)
		return KVC_BAD_MESSAGE;
	if (hello->protocol_min == 0 || hello->protocol_min > hello->protocol_max)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "protocol_min %u, protocol_max %u: expected 1 <= min <= max",
		                       hello->protocol_min, hello->protocol_max);
	if (kvc_convert_has_zero(body, 3) || !name_is_printable(hello->client))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "client: expected at most %d printable ASCII characters",
		                       CLIENT_NAME_MAX);
	request->protocol_min = hello->protocol_min;
	request->protocol_max = hello->protocol_max;
	request->client = hello->client;
	return KVC_OK;
}

static kvc_status id_check(uint32_t id, struct kvc_problem *problem)
{
	return id ? KVC_OK : kvc_problem_set(problem, KVC_INVALID, "id: not set, expected a number from 1");
}

kvc_status kvc_parse_close(struct kvc_convert *convert, struct kvc_body body, uint32_t *id,
                           struct kvc_problem *problem)
{
	const Kvcellar__Close *message =
	        kvc_convert_unpack(convert, &kvcellar__close__descriptor, body, problem);

	if (!message)
		return KVC_BAD_MESSAGE;
	*id = message->id;
	return id_check(message->id, problem);
}

kvc_status kvc_parse_detach(struct kvc_convert *convert, struct kvc_body body, uint32_t *id,
                            struct kvc_problem *problem)
{
	const Kvcellar__Detach *message =
	        kvc_convert_unpack(convert, &kvcellar__detach__descriptor, body, problem);

	if (!message)
		return KVC_BAD_MESSAGE;
	*id = message->id;
	return id_check(message->id, problem);
}

kvc_status kvc_parse_empty(struct kvc_convert *convert, struct kvc_body body, struct kvc_problem *problem)
{
	return kvc_convert_unpack(convert, &kvcellar__ping__descriptor, body, problem) ? KVC_OK
	                                                                               : KVC_BAD_MESSAGE;
}
