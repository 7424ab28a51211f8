/* Which blocks are worth a write to disk, so that a drive lives as long as its budget says. Pure: the clock
 * is passed in (CLOCK_MONOTONIC nanoseconds), the state that outlives a restart is a plain struct.
 *
 * Most blocks are never read again, and those that are once are likely to be read once more. So
 *
 *   a block that was used again, or was refused before and came back, is admitted while there is credit;
 *   a fresh one by a coin that is thrown for a whole request, since a chain with a hole is worth little: all
 * its blocks name the same coin.
 *
 * Credit accrues at the budget's rate and is spent by admissions; what accrues above half of a window stays
 * for later, up to one window. The coin's chance is what is left of the rate after blocks that came again,
 * divided by what fresh blocks ask for, both measured over a quarter of the window; more credit than half a
 * window raises the rate, less lowers it, so that writes follow the budget without steps. In any time T no
 * more is admitted than the budget allows for T + one window. */
#ifndef KVC_ADMIT_H
#define KVC_ADMIT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/kvc_status.h"

enum { KVC_ADMIT_HOURS = 24, KVC_ADMIT_VERSION = 1 };

/* What is kept over a restart. The time between is not known to a monotonic clock and counts as none. */
struct kvc_admit_state {
	uint32_t version;
	uint32_t hour;                     /* the running one, of `written` */
	uint64_t hour_ns;                  /* how far it has gone */
	uint64_t credit;                   /* bytes */
	uint64_t written[KVC_ADMIT_HOURS]; /* bytes, by hour, a ring */
};

static_assert(sizeof(struct kvc_admit_state) == 24 + 8 * KVC_ADMIT_HOURS, "plain, without holes");

struct kvc_admit_options {
	uint64_t day_bytes; /* budget; 0: no limit, all is admitted */
	uint64_t window_s;  /* 0: one hour */
	uint32_t
	        seen_max; /* refused blocks that are remembered, at 4 bytes each; rounded to a power of two */
};

enum kvc_admit_kind { KVC_ADMIT_FRESH, KVC_ADMIT_AGAIN };

struct kvc_admit;

/* `state`: what kvc_admit_save gave, or NULL. One of another version, or that makes no sense, counts as none.
 */
kvc_status kvc_admit_open(const struct kvc_admit_options *options, uint64_t now_ns,
                          const struct kvc_admit_state *state, struct kvc_admit **admit);
void kvc_admit_close(struct kvc_admit *admit);
void kvc_admit_save(struct kvc_admit *admit, uint64_t now_ns, struct kvc_admit_state *state);

/* Whether a block may be written. `coin`: the same for all blocks of a request, a hash. Spends credit. */
bool kvc_admit_ask(struct kvc_admit *admit, uint64_t now_ns, enum kvc_admit_kind kind, uint64_t coin,
                   uint64_t bytes);

/* A block that was admitted was not written after all. */
void kvc_admit_refund(struct kvc_admit *admit, uint64_t bytes);

/* A block that was refused is gone; a later kvc_admit_came_back of its hash is true, once. Forgets others. */
void kvc_admit_remember(struct kvc_admit *admit, uint64_t hash);
bool kvc_admit_came_back(struct kvc_admit *admit, uint64_t hash);

/* Bytes were written to the drive: for the daily figure, and charged, if they were not asked for. */
void kvc_admit_wrote(struct kvc_admit *admit, uint64_t now_ns, uint64_t bytes, bool asked);

/* Bytes written in the last 24 hours, to the hour. */
uint64_t kvc_admit_written_day(struct kvc_admit *admit, uint64_t now_ns);

#endif
