/* Where the key of an encrypted disk tier comes from. Synchronous; for the start. */
#ifndef KVC_KEYFILE_H
#define KVC_KEYFILE_H

#include <stddef.h>

#include "daemon/base/key.h"
#include "proto/kvc_status.h"

/* `where`: the path of a file, or `credential:NAME`, a file of that name in $CREDENTIALS_DIRECTORY, which
 * systemd's LoadCredential= makes. It holds 32 bytes, or 64 hex digits and at most the end of a line, and is
 * open to nobody else. KVC_MISS (there is none), KVC_ACCESS, KVC_INVALID (not such a file), KVC_IO; `detail`
 * says what to do. */
kvc_status kvc_keyfile_read(const char *where, struct kvc_secret *key, char *detail, size_t detail_bytes);

#endif
