/* Inside daemon/rpc/convert*.c: unpacking into bounded memory. */
#ifndef KVC_RPC_CONVERT_PRIVATE_H
#define KVC_RPC_CONVERT_PRIVATE_H

#include "daemon/rpc/convert.h"
#include "proto/kvcellar.pb-c.h"

struct kvc_convert {
	ProtobufCAllocator allocator;
	uint8_t *memory;
	size_t used;
	bool exhausted; /* since the last reset something did not fit */
};

/* Unpack a message; what was unpacked before is gone. NULL with the problem set. */
const void *kvc_convert_unpack(struct kvc_convert *convert, const ProtobufCMessageDescriptor *type,
                               struct kvc_body body, struct kvc_problem *problem);

/* Room in the same memory, after what was unpacked; NULL if there is none. */
void *kvc_convert_room(struct kvc_convert *convert, size_t bytes);

/* Whether a string field of a well-formed message holds a zero byte, which the C string would end at. */
bool kvc_convert_has_zero(struct kvc_body message, uint32_t field);

/* Cut the next occurrence of a field that is a message or string out of *message, and move on behind it. */
bool kvc_convert_field_next(struct kvc_body *message, uint32_t field, struct kvc_body *value);

#endif
