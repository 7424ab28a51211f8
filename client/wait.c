/* Waiting with a leader: see objects.h. A follower that is woken or times out while nobody reads takes the
 * lead itself, so leadership is never lost: kvcc_hand_on wakes one whenever the role falls free. */
#include <errno.h>
#include <sys/eventfd.h>

#include "client/internal.h"

void kvcc_waiter_init(struct kvcc_waiter *waiter)
{
	pthread_condattr_t attributes;

	kvcc_list_init(&waiter->node);
	waiter->woken = false;
	/* None of these can fail with these arguments on Linux. */
	(void)pthread_condattr_init(&attributes);
	(void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&waiter->wake, &attributes);
	(void)pthread_condattr_destroy(&attributes);
}

void kvcc_waiter_destroy(struct kvcc_waiter *waiter)
{
	(void)pthread_cond_destroy(&waiter->wake);
}

static void follow(struct kvc_client *client, struct kvcc_waiter *waiter, uint64_t until_ns)
{
	struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000ull),
	                         .tv_nsec = (long)(until_ns % 1000000000ull)};

	if (until_ns == KVCC_NEVER)
		(void)pthread_cond_wait(&waiter->wake, &client->lock);
	else
		(void)pthread_cond_timedwait(&waiter->wake, &client->lock, &until);
}

void kvcc_wait(struct kvc_client *client, struct kvcc_node *list, struct kvcc_waiter *waiter,
               uint64_t until_ns)
{
	kvcc_list_append(list, &waiter->node);
	while (!waiter->woken && kvcc_now_ns() < until_ns) {
		struct kvcc_conn *conn = client->conn;

		if (conn && !conn->reading && conn->state != KVCC_CONN_CLOSED)
			kvcc_receive(client, waiter, until_ns);
		else
			follow(client, waiter, until_ns);
	}
	kvcc_list_remove(&waiter->node);
}

void kvcc_kick(struct kvc_client *client)
{
	/* Fails only if the counter is full: then it is readable anyway. */
	if (client->poller)
		(void)eventfd_write(client->wake_fd, 1);
}

void kvcc_wake(struct kvc_client *client, struct kvcc_waiter *waiter)
{
	waiter->woken = true;
	if (client->poller == waiter)
		kvcc_kick(client);
	else
		(void)pthread_cond_signal(&waiter->wake);
}

void kvcc_wake_takers(struct kvc_client *client)
{
	for (struct kvcc_node *node = client->takers.next; node != &client->takers; node = node->next)
		kvcc_wake(client, KVCC_ENTRY(node, struct kvcc_waiter, node));
}

void kvcc_hand_on(struct kvc_client *client)
{
	struct kvcc_conn *conn = client->conn;
	struct kvcc_node *list = kvcc_list_empty(&client->waiters) ? &client->takers : &client->waiters;

	if (!conn || conn->reading || conn->state == KVCC_CONN_CLOSED || kvcc_list_empty(list))
		return;
	(void)pthread_cond_signal(&KVCC_ENTRY(list->next, struct kvcc_waiter, node)->wake);
}
