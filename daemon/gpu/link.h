/* The engine's end of the pair to the core (daemon/engine/gpu_wire.h): packets in, with descriptors; packets
 * out, which wait here while the core does not read. Never blocks. */
#ifndef KVC_LINK_H
#define KVC_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "daemon/engine/gpu_wire.h"

#define KVC_LINK_FDS_MAX 253u /* the kernel passes no more with a packet */

struct kvc_link {
	int fd;
	uint32_t fd_count;
	int fds[KVC_LINK_FDS_MAX]; /* of the last packet; closed before the next, or by kvc_link_fds_drop */
	struct kvc_list waiting;   /* packets that did not go out */
	uint64_t packet[KVC_GPU_MESSAGE_BYTES / sizeof(uint64_t)];
};

/* Takes the descriptor. */
void kvc_link_open(struct kvc_link *link, int fd);

/* The next packet is in link->packet. KVC_BUSY: there is none. KVC_DISCONNECTED: the core is gone.
 * KVC_BAD_MESSAGE: longer than any packet, or with more descriptors. */
kvc_status kvc_link_receive(struct kvc_link *link, uint32_t *bytes);

void kvc_link_fds_drop(struct kvc_link *link);

/* The packet is copied. KVC_DISCONNECTED; KVC_NO_MEMORY. */
kvc_status kvc_link_send(struct kvc_link *link, const void *packet, uint32_t bytes);

/* Send what waits, as far as it goes. */
kvc_status kvc_link_flush(struct kvc_link *link);

static inline bool kvc_link_has_waiting(const struct kvc_link *link)
{
	return !kvc_list_empty(&link->waiting);
}

#endif
