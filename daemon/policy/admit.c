/* Admission to disk under a budget. See admit.h. */
#include "daemon/policy/admit.h"

#include <math.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

#define SECOND_NS 1000000000ull
#define HOUR_NS   (3600 * SECOND_NS)
#define DAY_S     86400.0

enum { DEPTHS = 33, SEEN_MIN = 16, DEFAULT_WINDOW_S = 3600, MEASURE_SHARE = 4 };

struct kvc_admit {
	struct kvc_admit_options options;
	double rate; /* bytes a second */
	double window_s;
	double credit;
	double credit_max;
	double again;         /* bytes a second that are asked for, measured */
	double fresh[DEPTHS]; /* likewise, by the tokens before: 0, 1, 2 to 3, 4 to 7, ... */
	uint64_t now_ns;
	uint64_t hours;
	uint64_t hour_ns;
	bool restored;
	uint64_t written[KVC_ADMIT_HOURS];
	uint32_t seen_mask;
	uint32_t *seen; /* one place for a hash: some other bits of it, never 0 */
};

kvc_status kvc_admit_open(const struct kvc_admit_options *options, uint64_t now_ns, struct kvc_admit **out)
{
	struct kvc_admit *admit = kvc_calloc(1, sizeof *admit);
	uint32_t seen = SEEN_MIN;

	if (!admit)
		return KVC_NO_MEMORY;
	while (seen < options->seen_max && seen < 1u << 31)
		seen *= 2;
	admit->seen = kvc_calloc(seen, sizeof *admit->seen);
	if (!admit->seen) {
		kvc_free(admit);
		return KVC_NO_MEMORY;
	}
	admit->seen_mask = seen - 1;
	admit->options = *options;
	admit->rate = (double)options->day_bytes / DAY_S;
	admit->window_s = (double)(options->window_s ? options->window_s : DEFAULT_WINDOW_S);
	admit->credit_max = admit->rate * admit->window_s;
	admit->now_ns = now_ns;
	admit->credit = admit->credit_max / 2;
	*out = admit;
	return KVC_OK;
}

void kvc_admit_close(struct kvc_admit *admit)
{
	kvc_free(admit->seen);
	kvc_free(admit);
}

static void hours_pass(struct kvc_admit *admit, uint64_t passed_ns)
{
	admit->hour_ns += passed_ns;
	for (unsigned i = 0; i < KVC_ADMIT_HOURS && admit->hour_ns >= HOUR_NS; i++) {
		admit->hour_ns -= HOUR_NS;
		admit->hours++;
		admit->written[admit->hours % KVC_ADMIT_HOURS] = 0;
	}
	admit->hours += admit->hour_ns / HOUR_NS; /* after a day nothing is left to clear */
	admit->hour_ns %= HOUR_NS;
}

/* A clock that seems to go back is taken to stand. */
static void time_pass(struct kvc_admit *admit, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns > admit->now_ns ? now_ns - admit->now_ns : 0;
	double passed_s = (double)passed_ns / (double)SECOND_NS;
	double kept;

	if (!passed_ns)
		return;
	kept = exp(-passed_s * (double)MEASURE_SHARE / admit->window_s);
	admit->again *= kept;
	for (unsigned depth = 0; depth < DEPTHS; depth++)
		admit->fresh[depth] *= kept;
	admit->credit = fmin(admit->credit_max, admit->credit + admit->rate * passed_s);
	admit->now_ns = now_ns;
	hours_pass(admit, passed_ns);
}

static unsigned depth_of(uint32_t first)
{
	return first ? 32 - (unsigned)__builtin_clz(first) : 0;
}

/* The chance of a fresh block of that depth now. */
static double chance(const struct kvc_admit *admit, unsigned depth)
{
	double left = 2 * admit->rate * admit->credit / admit->credit_max - admit->again;

	for (unsigned above = 0; above < depth; above++)
		left -= admit->fresh[above];
	if (left <= 0)
		return 0;
	return left >= admit->fresh[depth] ? 1 : left / admit->fresh[depth];
}

/* A number in [0, 1) from a hash whose low bits may have served for something else. */
static double coin_value(uint64_t coin)
{
	coin *= 0x9E3779B97F4A7C15ull;
	coin ^= coin >> 32;
	coin *= 0xD6E8FEB86659FD93ull;
	return (double)(coin >> 11) / (double)(1ull << 53);
}

bool kvc_admit_ask(struct kvc_admit *admit, uint64_t now_ns, const struct kvc_admit_block *block)
{
	bool fresh = block->kind == KVC_ADMIT_FRESH;
	unsigned depth = depth_of(block->first);
	double *asked = fresh ? &admit->fresh[depth] : &admit->again;

	if (!admit->options.day_bytes)
		return true;
	time_pass(admit, now_ns);
	*asked += (double)block->bytes * (double)MEASURE_SHARE / admit->window_s;
	if (admit->credit < (double)block->bytes)
		return false;
	if (fresh && coin_value(block->coin) >= chance(admit, depth))
		return false;
	admit->credit -= (double)block->bytes;
	return true;
}

void kvc_admit_refund(struct kvc_admit *admit, uint64_t bytes)
{
	admit->credit = fmin(admit->credit_max, admit->credit + (double)bytes);
}

bool kvc_admit_resize(struct kvc_admit *admit, uint64_t asked, uint64_t bytes)
{
	bool fits = admit->credit + (double)asked >= (double)bytes;

	admit->credit += (double)asked - (fits ? (double)bytes : 0);
	admit->credit = fmin(admit->credit_max, admit->credit);
	return fits;
}

static uint32_t mark_of(uint64_t hash)
{
	return (uint32_t)(hash >> 32) | 1;
}

void kvc_admit_remember(struct kvc_admit *admit, uint64_t hash)
{
	admit->seen[hash & admit->seen_mask] = mark_of(hash);
}

bool kvc_admit_came_back(struct kvc_admit *admit, uint64_t hash)
{
	uint32_t *mark = &admit->seen[hash & admit->seen_mask];

	if (*mark != mark_of(hash))
		return false;
	*mark = 0;
	return true;
}

void kvc_admit_wrote(struct kvc_admit *admit, uint64_t now_ns, uint64_t bytes, bool asked)
{
	time_pass(admit, now_ns);
	admit->written[admit->hours % KVC_ADMIT_HOURS] += bytes;
	if (!asked)
		admit->credit = fmax(0, admit->credit - (double)bytes);
}

uint64_t kvc_admit_written_day(struct kvc_admit *admit, uint64_t now_ns)
{
	uint64_t bytes = 0;

	time_pass(admit, now_ns);
	for (unsigned i = 0; i < KVC_ADMIT_HOURS; i++)
		bytes += admit->written[i];
	return bytes;
}

void kvc_admit_save(struct kvc_admit *admit, uint64_t now_ns, struct kvc_admit_state *state)
{
	time_pass(admit, now_ns);
	*state = (struct kvc_admit_state){
	        .version = KVC_ADMIT_VERSION,
	        .hours = admit->hours,
	        .hour_ns = admit->hour_ns,
	        .credit = (uint64_t)admit->credit,
	};
	for (unsigned i = 0; i < KVC_ADMIT_HOURS; i++)
		state->written[i] = admit->written[i];
}

static bool state_good(const struct kvc_admit_state *state)
{
	return state->version == KVC_ADMIT_VERSION && !state->zero && state->hour_ns < HOUR_NS &&
	       state->hours < UINT32_MAX;
}

static bool newer(const struct kvc_admit *admit, const struct kvc_admit_state *state)
{
	if (!admit->restored)
		return true;
	return state->hours > admit->hours ||
	       (state->hours == admit->hours && state->hour_ns > admit->hour_ns);
}

void kvc_admit_restore(struct kvc_admit *admit, const struct kvc_admit_state *state)
{
	if (!state_good(state) || !newer(admit, state))
		return;
	admit->restored = true;
	admit->credit = fmin(admit->credit_max, (double)state->credit);
	admit->hours = state->hours;
	admit->hour_ns = state->hour_ns;
	for (unsigned i = 0; i < KVC_ADMIT_HOURS; i++)
		admit->written[i] = state->written[i];
}

uint64_t kvc_admit_credit(struct kvc_admit *admit, uint64_t now_ns)
{
	time_pass(admit, now_ns);
	return (uint64_t)admit->credit;
}
