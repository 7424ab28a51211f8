/* Taking connections: who may, how many, and what to do when descriptors run out.
 *
 * One descriptor is kept in reserve: when there are none left it is given up for a moment to take a
 * connection and close it, so that its client learns at once that it is not served, and the loop does not
 * spin on a listening socket that stays readable. Then accepting pauses. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/rpc/session.h"

enum {
	ACCEPTS_A_TURN = 32,
	PAUSE_MS = 100,
	GROUPS_MAX = 256,    /* of one user; with more, only the primary group counts */
	OVERFLOW_ID = 65534, /* stands for users of other namespaces, whoever they are */
};

/* ---- who ----------------------------------------------------------------------------------- */

struct peer {
	uid_t uid;
	gid_t gids[GROUPS_MAX + 1];
	uint32_t gid_count;
};

static bool peer_read(int fd, struct peer *peer)
{
	struct ucred credentials;
	socklen_t bytes = sizeof credentials;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes))
		return false;
	peer->uid = credentials.uid;
	peer->gids[0] = credentials.gid;
	peer->gid_count = 1;
	bytes = GROUPS_MAX * sizeof(gid_t);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, &peer->gids[1], &bytes) == 0)
		peer->gid_count += (uint32_t)(bytes / sizeof(gid_t));
	return true;
}

static bool gid_allowed(const struct kvc_rpc_limits *limits, gid_t gid)
{
	for (uint32_t i = 0; i < limits->gid_count; i++) {
		if (limits->gids[i] == gid && gid != OVERFLOW_ID)
			return true;
	}
	return false;
}

bool kvc_accept_allows(const struct kvc_rpc_limits *limits, uid_t uid, const gid_t *gids, uint32_t gid_count)
{
	if (uid == OVERFLOW_ID || uid == (uid_t)-1)
		return false;
	if (uid == 0 || uid == geteuid())
		return true;
	for (uint32_t i = 0; i < limits->uid_count; i++) {
		if (limits->uids[i] == uid)
			return true;
	}
	for (uint32_t i = 0; i < gid_count; i++) {
		if (gid_allowed(limits, gids[i]))
			return true;
	}
	return false;
}

/* ---- how many ------------------------------------------------------------------------------ */

static uint32_t sessions_of(const struct kvc_rpc *rpc, uid_t uid)
{
	uint32_t count = 0;

	kvc_list_each (node, &rpc->sessions)
		count += kvc_container_of(node, struct kvc_session, node)->uid == uid;
	return count;
}

static void reject(struct kvc_rpc *rpc, enum kvc_drop drop, uid_t uid, const char *why)
{
	kvc_rpc_count_drop(rpc, drop);
	kvc_rpc_warn(rpc, "connection of uid %u not taken: %s", (unsigned)uid, why);
}

static bool room_for(struct kvc_rpc *rpc, uid_t uid)
{
	if (rpc->session_count >= rpc->limits.connections) {
		reject(rpc, KVC_DROP_CONNECTIONS, uid, "the limit of connections is reached");
		return false;
	}
	if (sessions_of(rpc, uid) >= rpc->limits.connections_per_uid) {
		reject(rpc, KVC_DROP_CONNECTIONS_PER_UID, uid,
		       "the limit of connections of one user is reached");
		return false;
	}
	return true;
}

static bool admit(struct kvc_rpc *rpc, int fd, uid_t *uid)
{
	struct peer peer;

	if (!peer_read(fd, &peer)) {
		reject(rpc, KVC_DROP_USER, (uid_t)-1, "its user cannot be found out");
		return false;
	}
	if (!kvc_accept_allows(&rpc->limits, peer.uid, peer.gids, peer.gid_count)) {
		reject(rpc, KVC_DROP_USER, peer.uid, "the user is not allowed (allow-uids, allow-gids)");
		return false;
	}
	*uid = peer.uid;
	return room_for(rpc, peer.uid);
}

/* ---- accepting ----------------------------------------------------------------------------- */

static void pause_over(struct kvc_timer *timer)
{
	struct kvc_rpc *rpc = kvc_container_of(timer, struct kvc_rpc, accept_pause);

	kvc_watch_set(rpc->listen_watch, true, false);
}

/* If even the timer cannot start, go on at once: the loop spins, but serves. */
static void accept_pause(struct kvc_rpc *rpc)
{
	rpc->accept_pause.fire = pause_over;
	if (kvc_timer_start(rpc->loop, &rpc->accept_pause, PAUSE_MS) == KVC_OK)
		kvc_watch_set(rpc->listen_watch, false, false);
}

static int reserve_open(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* There is no descriptor for a connection that waits: turn it away with the one in reserve. */
static void turn_away(struct kvc_rpc *rpc)
{
	int fd;

	if (rpc->reserve_fd >= 0) {
		close(rpc->reserve_fd);
		fd = accept4(rpc->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			close(fd);
			reject(rpc, KVC_DROP_NO_DESCRIPTORS, (uid_t)-1,
			       "no descriptors are left (LimitNOFILE=, ulimit -n)");
		}
		rpc->reserve_fd = reserve_open();
	}
	accept_pause(rpc);
}

/* False: nothing more to take in this turn. */
static bool accept_one(struct kvc_rpc *rpc)
{
	int fd = accept4(rpc->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	uid_t uid;

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			turn_away(rpc);
		else if (errno == ENOBUFS || errno == ENOMEM)
			accept_pause(rpc);
		return errno == EINTR || errno == ECONNABORTED;
	}
	if (!admit(rpc, fd, &uid)) {
		close(fd);
		return true;
	}
	if (kvc_session_open(rpc, fd, uid) != KVC_OK) {
		close(fd);
		reject(rpc, KVC_DROP_NO_MEMORY, uid, "out of memory");
	}
	return true;
}

static void listen_event(void *context, bool readable, bool writable)
{
	struct kvc_rpc *rpc = context;

	(void)readable;
	(void)writable;
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		if (!accept_one(rpc))
			return;
	}
}

kvc_status kvc_accept_open(struct kvc_rpc *rpc, int listen_fd)
{
	kvc_status status;

	KVC_PRE(listen_fd >= 0 && !rpc->listen_watch);
	rpc->listen_fd = listen_fd;
	rpc->reserve_fd = reserve_open();
	if (rpc->reserve_fd < 0)
		return kvc_status_of_errno(errno);
	status = kvc_watch_open(rpc->loop, listen_fd, listen_event, rpc, &rpc->listen_watch);
	if (status != KVC_OK) {
		close(rpc->reserve_fd);
		rpc->reserve_fd = -1;
		return status;
	}
	kvc_watch_set(rpc->listen_watch, true, false);
	return KVC_OK;
}

void kvc_accept_close(struct kvc_rpc *rpc)
{
	kvc_timer_stop(&rpc->accept_pause);
	if (rpc->listen_watch)
		kvc_watch_close(rpc->listen_watch);
	rpc->listen_watch = NULL;
	rpc->listen_fd = -1;
	if (rpc->reserve_fd >= 0)
		close(rpc->reserve_fd);
	rpc->reserve_fd = -1;
}
