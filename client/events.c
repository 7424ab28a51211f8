/* The descriptor for event loops: an epoll instance that holds the socket, a timer for the earliest deadline
 * of an asynchronous call, and an eventfd that is readable while completions wait. Made by the first
 * kvc_client_fd, so that nobody else pays for it; brought up to date whenever the lock is given up. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "client/internal.h"

static kvc_status watch(int epoll_fd, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return KVC_NO_MEMORY;
	return KVC_OK;
}

static void close_open(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static kvc_status events_make(struct kvc_client *client)
{
	client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	client->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	client->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	client->timer_ns = KVCC_NEVER;
	client->event_set = false;
	if (client->epoll_fd >= 0 && watch(client->epoll_fd, client->timer_fd) == KVC_OK &&
	    watch(client->epoll_fd, client->event_fd) == KVC_OK)
		return KVC_OK;
	(void)kvcc_fail(KVC_NO_MEMORY, "cannot make a descriptor for event loops: %s", strerror(errno));
	close_open(&client->epoll_fd);
	close_open(&client->timer_fd);
	close_open(&client->event_fd);
	return KVC_NO_MEMORY;
}

int kvc_client_fd(struct kvc_client *client)
{
	int fd;

	if (kvcc_enter(client) != KVC_OK)
		return -1;
	if (client->epoll_fd < 0)
		(void)events_make(client);
	fd = client->epoll_fd;
	kvcc_leave(client);
	return fd;
}

void kvcc_events_remove(struct kvc_client *client, struct kvcc_conn *conn)
{
	if (conn->epoll_events == 0)
		return;
	(void)epoll_ctl(client->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
	conn->epoll_events = 0;
}

/* False: the socket could not be registered. */
static bool update_socket(struct kvc_client *client)
{
	struct kvcc_conn *conn = client->conn;
	struct epoll_event event = {.events = EPOLLIN};
	int operation;

	if (!conn || conn->state == KVCC_CONN_CLOSED)
		return true;
	if (conn->blocked)
		event.events |= EPOLLOUT;
	if (event.events == conn->epoll_events)
		return true;
	operation = conn->epoll_events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(client->epoll_fd, operation, conn->fd, &event) != 0)
		return false;
	conn->epoll_events = event.events;
	return true;
}

/* The timer may fire early: deadlines mostly move back, and setting it for each call would cost a system
 * call. It is set again when an earlier deadline comes or when it has fired. */
static void update_timer(struct kvc_client *client)
{
	struct itimerspec at = {.it_value = {0, 0}};

	if (client->earliest_ns >= client->timer_ns &&
	    (client->timer_ns == KVCC_NEVER || kvcc_now_ns() < client->timer_ns))
		return;
	if (client->earliest_ns != KVCC_NEVER) {
		at.it_value.tv_sec = (time_t)(client->earliest_ns / 1000000000ull);
		at.it_value.tv_nsec = (long)(client->earliest_ns % 1000000000ull);
	}
	(void)timerfd_settime(client->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
	client->timer_ns = client->earliest_ns;
}

void kvcc_events_update(struct kvc_client *client)
{
	eventfd_t ignored;
	bool wanted;

	if (client->epoll_fd < 0)
		return;
	/* A socket that could not be registered is tried again by the next call of kvc_client_next. */
	wanted = !update_socket(client) || !kvcc_list_empty(&client->completions);
	update_timer(client);
	if (wanted == client->event_set)
		return;
	if (wanted)
		(void)eventfd_write(client->event_fd, 1);
	else
		(void)eventfd_read(client->event_fd, &ignored);
	client->event_set = wanted;
}
