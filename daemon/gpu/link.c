/* Packets over a SOCK_SEQPACKET socket. A packet goes out whole or not at all. */
#include "daemon/gpu/link.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"

struct waiting {
	struct kvc_list node;
	uint32_t bytes;
	uint8_t packet[];
};

void kvc_link_open(struct kvc_link *link, int fd)
{
	link->fd = fd;
	link->fd_count = 0;
	kvc_list_init(&link->waiting);
}

void kvc_link_fds_drop(struct kvc_link *link)
{
	for (uint32_t i = 0; i < link->fd_count; i++)
		close(link->fds[i]);
	link->fd_count = 0;
}

static void fds_take(struct kvc_link *link, struct msghdr *message)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		uint32_t count = (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		KVC_INVARIANT(link->fd_count + count <= KVC_LINK_FDS_MAX);
		memcpy(link->fds + link->fd_count, CMSG_DATA(header), count * sizeof(int));
		link->fd_count += count;
	}
}

kvc_status kvc_link_receive(struct kvc_link *link, uint32_t *bytes)
{
	union {
		char bytes[CMSG_SPACE(KVC_LINK_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec data = {.iov_base = link->packet, .iov_len = sizeof link->packet};
	struct msghdr message = {.msg_iov = &data,
	                         .msg_iovlen = 1,
	                         .msg_control = control.bytes,
	                         .msg_controllen = sizeof control.bytes};
	ssize_t got;

	kvc_link_fds_drop(link);
	do {
		got = recvmsg(link->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == EAGAIN                            ? KVC_BUSY
		       : errno == ECONNRESET || errno == ENOTCONN ? KVC_DISCONNECTED
		                                                  : kvc_status_of_errno(errno);
	if (got == 0)
		return KVC_DISCONNECTED;
	fds_take(link, &message);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return KVC_BAD_MESSAGE;
	*bytes = (uint32_t)got;
	return KVC_OK;
}

/* KVC_BUSY: the core does not read just now. */
static kvc_status packet_send(struct kvc_link *link, const void *packet, uint32_t bytes)
{
	ssize_t sent;

	do {
		sent = send(link->fd, packet, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return KVC_OK;
	if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
		return KVC_DISCONNECTED;
	return errno == EAGAIN || errno == ENOBUFS ? KVC_BUSY : kvc_status_of_errno(errno);
}

static kvc_status packet_keep(struct kvc_link *link, const void *packet, uint32_t bytes)
{
	struct waiting *waiting = kvc_calloc(1, sizeof *waiting + bytes);

	if (!waiting)
		return KVC_NO_MEMORY;
	waiting->bytes = bytes;
	memcpy(waiting->packet, packet, bytes);
	kvc_list_push(&link->waiting, &waiting->node);
	return KVC_OK;
}

kvc_status kvc_link_send(struct kvc_link *link, const void *packet, uint32_t bytes)
{
	kvc_status status = KVC_BUSY;

	KVC_PRE(bytes >= sizeof(struct kvc_gpu_header) && bytes <= KVC_GPU_MESSAGE_BYTES);
	if (!kvc_link_has_waiting(link))
		status = packet_send(link, packet, bytes);
	return status == KVC_BUSY ? packet_keep(link, packet, bytes) : status;
}

kvc_status kvc_link_flush(struct kvc_link *link)
{
	while (kvc_link_has_waiting(link)) {
		struct waiting *waiting = kvc_container_of(link->waiting.next, struct waiting, node);
		kvc_status status = packet_send(link, waiting->packet, waiting->bytes);

		if (status)
			return status == KVC_BUSY ? KVC_OK : status;
		kvc_list_remove(&waiting->node);
		kvc_free(waiting);
	}
	return KVC_OK;
}
