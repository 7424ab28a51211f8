/* The listening socket: a path that only one daemon has.
 *
 * A lock on PATH.lock says whose the path is; a socket file that is left of a dead daemon is replaced, one
 * that answers is not touched. Bound at once, so that a taken path is known at start; listening only later,
 * so that clients see "no daemon" until it can answer them. Start-up and loop thread. */
#ifndef KVC_LISTEN_H
#define KVC_LISTEN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/kvc_status.h"

#define KVC_LISTEN_PATH_BYTES 108u /* of sun_path, with its end */

struct kvc_listen {
	int fd;
	int lock_fd; /* -1: the socket came from the service manager */
	char path[KVC_LISTEN_PATH_BYTES];
	dev_t device; /* of the socket file that was made */
	ino_t inode;
};

/* Lock and bind, make the directory if its parent is there. KVC_IN_USE, KVC_INVALID, KVC_ACCESS, ...:
 * `detail` names the path and what to do. */
kvc_status kvc_listen_open(const char *path, mode_t mode, struct kvc_listen *listen, char *detail,
                           size_t detail_bytes);

/* Take a socket that listens already. */
void kvc_listen_adopt(int fd, struct kvc_listen *listen);

kvc_status kvc_listen_start(struct kvc_listen *listen);

/* Also removes the socket file, if it is still the one that was made, and the lock. */
void kvc_listen_close(struct kvc_listen *listen);

#endif
