/* Credit that grows with time. See rate.h. */
#include "daemon/policy/rate.h"

#include "daemon/base/check.h"

#define SECOND_MS 1000u

void kvc_rate_init(struct kvc_rate *rate, uint64_t per_s, uint64_t now_ms)
{
	KVC_PRE(per_s <= KVC_RATE_MAX);
	*rate = (struct kvc_rate){.per_s = per_s, .credit_bytes = (int64_t)per_s, .at_ms = now_ms};
}

/* Whole bytes are added and the rest of the time is left for the next call, so that no rate is too low. */
static void accrue(struct kvc_rate *rate, uint64_t now_ms)
{
	uint64_t room = (uint64_t)((int64_t)rate->per_s - rate->credit_bytes);
	uint64_t gone_ms = now_ms > rate->at_ms ? now_ms - rate->at_ms : 0;
	uint64_t bytes = gone_ms / SECOND_MS * rate->per_s + gone_ms % SECOND_MS * rate->per_s / SECOND_MS;

	if (gone_ms / SECOND_MS > room / rate->per_s || bytes >= room) {
		rate->credit_bytes = (int64_t)rate->per_s;
		rate->at_ms = now_ms;
	} else if (bytes) {
		rate->credit_bytes += (int64_t)bytes;
		rate->at_ms += bytes * SECOND_MS / rate->per_s;
	}
}

void kvc_rate_set(struct kvc_rate *rate, uint64_t per_s, uint64_t now_ms)
{
	KVC_PRE(per_s <= KVC_RATE_MAX);
	if (!rate->per_s) {
		kvc_rate_init(rate, per_s, now_ms);
		return;
	}
	accrue(rate, now_ms);
	rate->per_s = per_s;
	if (rate->credit_bytes > (int64_t)per_s)
		rate->credit_bytes = (int64_t)per_s;
}

bool kvc_rate_ready(struct kvc_rate *rate, uint64_t now_ms)
{
	if (!rate->per_s)
		return true;
	accrue(rate, now_ms);
	return rate->credit_bytes > 0;
}

void kvc_rate_take(struct kvc_rate *rate, uint64_t bytes)
{
	KVC_PRE(bytes <= INT64_MAX / 2);
	if (rate->per_s && rate->credit_bytes > INT64_MIN / 2)
		rate->credit_bytes -= (int64_t)bytes;
}

uint64_t kvc_rate_wait_ms(const struct kvc_rate *rate)
{
	uint64_t missing;

	if (!rate->per_s || rate->credit_bytes > 0)
		return 0;
	missing = (uint64_t)-rate->credit_bytes + 1;
	return missing / rate->per_s * SECOND_MS + missing % rate->per_s * SECOND_MS / rate->per_s + 1;
}
