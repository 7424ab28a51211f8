/* See fault_check.h. */
#include "tests/support/fault_check.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/row.h"

enum { SETTLE_MS = 10000, STEP_MS = 5 };

bool kvc_test_fault_begin(struct kvc_test_fault *fault, struct kvc_test_daemon *daemon)
{
	fault->daemon = daemon;
	fault->witness = kvc_test_client(daemon->socket);
	fault->before = fault->witness < 0 ? NULL : kvc_test_stats(fault->witness);
	fault->descriptors = kvc_test_daemon_descriptors(daemon);
	return fault->before != NULL;
}

static bool is_fault_counter(const char *name)
{
	return strncmp(name, "rpc.dropped.", 12) == 0 || strncmp(name, "rpc.rejected.", 13) == 0 ||
	       strncmp(name, "rpc.refused.", 12) == 0;
}

/* Whether the counters moved as expected from `fault->before` to `now`. */
static bool moved(const struct kvc_test_fault *fault, const Kvcellar__StatsReply *now, const char *counter,
                  unsigned times, bool tell)
{
	bool right = true;

	for (size_t i = 0; i < now->n_stats; i++) {
		const char *name = now->stats[i]->name;
		double grown = now->stats[i]->value - kvc_test_stat(fault->before, name);
		double expected = strcmp(name, counter) == 0 ? times : 0;

		if (!is_fault_counter(name) || grown == expected)
			continue;
		right = false;
		if (tell)
			fprintf(stderr, "%s grew by %g, expected %g\n", name, grown, expected);
	}
	return right && kvc_test_stat(now, counter) >= 0;
}

static void pause_step(void)
{
	nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000}, NULL);
}

bool kvc_test_fault_counted(struct kvc_test_fault *fault, const char *counter, unsigned times)
{
	for (int waited = 0;; waited += STEP_MS) {
		Kvcellar__StatsReply *now = kvc_test_stats(fault->witness);
		bool last = waited >= SETTLE_MS;
		bool right = now && moved(fault, now, counter, times, last);

		if (!right && !last) {
			kvcellar__stats_reply__free_unpacked(now, NULL);
			pause_step();
			continue;
		}
		if (now) {
			kvcellar__stats_reply__free_unpacked(fault->before, NULL);
			fault->before = now;
		}
		kvc_row.injected += right ? times : 0;
		return right;
	}
}

static bool serves(int fd)
{
	struct kvc_test_reply reply;

	return fd >= 0 && kvc_test_call(fd, KVC_VERB_PING, NULL, &reply) == KVC_OK;
}

bool kvc_test_fault_harmless(struct kvc_test_fault *fault)
{
	int other = kvc_test_client(fault->daemon->socket);
	bool served = serves(fault->witness) && serves(other) && kvc_test_open_ns(other, "raw") == KVC_OK;
	int now = 0;

	if (other >= 0)
		close(other);
	for (int waited = 0; served && waited < SETTLE_MS; waited += STEP_MS) {
		now = kvc_test_daemon_descriptors(fault->daemon);
		if (now == fault->descriptors)
			return true;
		pause_step();
	}
	kvc_row.leaks += now != fault->descriptors;
	fprintf(stderr, "served: %d, descriptors: %d, expected %d\n", served, now, fault->descriptors);
	return false;
}

void kvc_test_fault_end(struct kvc_test_fault *fault)
{
	kvcellar__stats_reply__free_unpacked(fault->before, NULL);
	if (fault->witness >= 0)
		close(fault->witness);
}
