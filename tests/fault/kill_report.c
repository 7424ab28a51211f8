/* What the kill loop says at its end. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/fault/kill_loop.h"

static const char *const phase_names[KILL_PHASES] = {
        "start", "first answers", "load", "a segment's beginning", "checkpoint", "stop",
};

bool kill_failed(const struct kill_totals *t)
{
	return t->wrong || t->missing || t->failed_starts || t->failed_stops || t->ends || t->hangs ||
	       t->bad_statuses || t->verified == 0;
}

static int by_size(const void *a, const void *b)
{
	uint32_t first = *(const uint32_t *)a;
	uint32_t second = *(const uint32_t *)b;

	return (first > second) - (first < second);
}

/* From fork to the first answer, as milliseconds and against the blocks that were recovered. */
static void starts_report(struct kill_loop *loop)
{
	uint32_t *us = loop->start_us;
	unsigned n = loop->starts;
	double records = loop->totals.told ? (double)loop->totals.recovered / loop->totals.told : 0;

	if (n == 0)
		return;
	qsort(us, n, sizeof *us, by_size);
	printf("# starts %u, from fork to the first answer: p50 %.1f, p90 %.1f, p99 %.1f, most %.1f ms; "
	       "%.0f blocks recovered on average (%.2f us each at p50, %.2f at p99)\n",
	       n, us[n / 2] / 1e3, us[n * 9 / 10] / 1e3, us[n * 99 / 100] / 1e3, us[n - 1] / 1e3, records,
	       records > 0 ? us[n / 2] / records : 0, records > 0 ? us[n * 99 / 100] / records : 0);
}

static void kills_report(const struct kill_loop *loop)
{
	const struct kill_totals *t = &loop->totals;

	printf("# kills %u:", t->kills);
	for (unsigned i = 0; i < KILL_PHASES; i++)
		printf("%s %u at %s", i ? "," : "", t->by_phase[i], phase_names[i]);
	printf("; %u stops in order\n", t->stops);
	printf("# segments recovered from checkpoints %llu, from summaries %llu, by scans %llu; written anew "
	       "%llu\n",
	       (unsigned long long)t->by_checkpoint, (unsigned long long)t->by_summary,
	       (unsigned long long)t->by_scan, (unsigned long long)loop->disk.renewed);
}

void kill_report(struct kill_loop *loop, uint64_t seed)
{
	const struct kill_totals *t = &loop->totals;

	kills_report(loop);
	starts_report(loop);
	printf("# acknowledged as on disk %llu, verified reads %llu (+ %llu by workers, with %llu misses and "
	       "%llu failed calls), reclaimed since %llu, wrong bytes %u, missing acknowledged %u, failed "
	       "starts %u, failed stops %u, ends by itself %u, hangs %u, bad statuses %u, seed %llu\n",
	       (unsigned long long)loop->ledger.acked, (unsigned long long)t->verified,
	       (unsigned long long)t->worker_verified, (unsigned long long)t->worker_misses,
	       (unsigned long long)t->worker_failed_calls, (unsigned long long)t->reclaimed, t->wrong,
	       t->missing, t->failed_starts, t->failed_stops, t->ends, t->hangs, t->bad_statuses,
	       (unsigned long long)seed);
	printf("%sok 1 - %u kills\n", kill_failed(t) ? "not " : "", t->kills);
}
