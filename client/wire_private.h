/* Between the files that encode requests. */
#ifndef KVCC_WIRE_PRIVATE_H
#define KVCC_WIRE_PRIVATE_H

#include "client/wire.h"
#include "proto/kvcellar.pb-c.h"

/* Behind the room for a header. KVC_LIMIT: over KVC_FRAME_BODY_MAX. KVC_NO_MEMORY. */
kvc_status kvcc_wire_pack(const ProtobufCMessage *message, struct kvcc_buffer *out);

#endif
