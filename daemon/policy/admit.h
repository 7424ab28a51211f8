/* Which blocks are worth a write to disk, so that a drive lives as long as its budget says. Pure: the clock
 * is passed in (CLOCK_MONOTONIC nanoseconds), the state that outlives a restart is a plain struct.
 *
 * Most blocks are never read again, and those that are once are likely to be read once more. What prompts
 * have in common is at their front. So
 *
 *   a block that was used again, or was refused before and came back, is admitted while there is credit;
 *   of the fresh ones, those with few tokens before them come first: the heads of prompts.
 *
 * Credit accrues at the budget's rate and is spent by admissions; what accrues above half of a window stays
 * for later, up to one window. What is left of the rate after blocks that came again goes to fresh ones, by
 * what is asked for at each depth (in octaves of tokens); both are measured over a quarter of the window. At
 * the depth that is paid for in part a coin decides that is thrown for a whole request, since a chain with a
 * hole is worth little. More credit than half a window raises the rate, less lowers it, so that writes follow
 * the budget without steps. In any time T no more is admitted than the budget allows for T + one window. */
#ifndef KVC_ADMIT_H
#define KVC_ADMIT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/kvc_status.h"

enum { KVC_ADMIT_HOURS = 24, KVC_ADMIT_VERSION = 2 };

/* What is kept over a restart. The time between is not known to a monotonic clock and counts as none. */
struct kvc_admit_state {
	uint32_t version;
	uint32_t zero;
	uint64_t hours;                    /* that were counted; the running one is the first behind */
	uint64_t hour_ns;                  /* how far it has gone */
	uint64_t credit;                   /* bytes */
	uint64_t written[KVC_ADMIT_HOURS]; /* bytes, by hour: a ring */
};

static_assert(sizeof(struct kvc_admit_state) == 32 + 8 * KVC_ADMIT_HOURS, "plain, without holes");

struct kvc_admit_options {
	uint64_t day_bytes; /* budget; 0: no limit, all is admitted */
	uint64_t window_s;  /* 0: one hour */
	uint32_t
	        seen_max; /* refused blocks that are remembered, at 4 bytes each; rounded to a power of two */
};

enum kvc_admit_kind { KVC_ADMIT_FRESH, KVC_ADMIT_AGAIN };

struct kvc_admit;

/* Without a state to go on from it begins with half a window's credit. */
kvc_status kvc_admit_open(const struct kvc_admit_options *options, uint64_t now_ns, struct kvc_admit **admit);
void kvc_admit_close(struct kvc_admit *admit);
void kvc_admit_save(struct kvc_admit *admit, uint64_t now_ns, struct kvc_admit_state *state);

/* Go on from what kvc_admit_save gave, before anything is asked. One of another version, or that makes no
 * sense, counts as none; of several the one that has counted longest is taken. */
void kvc_admit_restore(struct kvc_admit *admit, const struct kvc_admit_state *state);

/* Bytes that may be written now. */
uint64_t kvc_admit_credit(struct kvc_admit *admit, uint64_t now_ns);

/* The depth of a block that only a prompt which is the same to its end can use: of a part of one. */
#define KVC_ADMIT_DEEPEST UINT32_MAX

struct kvc_admit_block {
	enum kvc_admit_kind kind;
	uint32_t first; /* fresh: tokens before it */
	uint64_t coin;  /* fresh: the same for all blocks of a request, a hash */
	uint64_t bytes;
};

/* Whether a block may be written. Spends credit. */
bool kvc_admit_ask(struct kvc_admit *admit, uint64_t now_ns, const struct kvc_admit_block *block);

/* A block that was admitted was not written after all. */
void kvc_admit_refund(struct kvc_admit *admit, uint64_t bytes);

/* A block that was admitted turned out to have other bytes than were asked for. False: there is no credit for
 * them; then it is not admitted after all, and costs nothing. */
bool kvc_admit_resize(struct kvc_admit *admit, uint64_t asked, uint64_t bytes);

/* A block that was refused is gone; a later kvc_admit_came_back of its hash is true, once. Forgets others. */
void kvc_admit_remember(struct kvc_admit *admit, uint64_t hash);
bool kvc_admit_came_back(struct kvc_admit *admit, uint64_t hash);

/* Bytes were written to the drive: for the daily figure, and charged, if they were not asked for. */
void kvc_admit_wrote(struct kvc_admit *admit, uint64_t now_ns, uint64_t bytes, bool asked);

/* Bytes written in the last 24 hours, to the hour. */
uint64_t kvc_admit_written_day(struct kvc_admit *admit, uint64_t now_ns);

#endif
