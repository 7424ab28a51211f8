/* Credit that grows with time. See rate.h. */
#include "daemon/policy/rate.h"

#include "daemon/base/check.h"

#define PER_BYTE 1000 /* of credit */

static int64_t full(uint64_t per_s)
{
	return (int64_t)per_s * PER_BYTE;
}

void kvc_rate_init(struct kvc_rate *rate, uint64_t per_s, uint64_t now_ms)
{
	KVC_PRE(per_s <= KVC_RATE_MAX);
	*rate = (struct kvc_rate){.per_s = per_s, .credit = full(per_s), .at_ms = now_ms};
}

static void accrue(struct kvc_rate *rate, uint64_t now_ms)
{
	uint64_t room = (uint64_t)(full(rate->per_s) - rate->credit);
	uint64_t gone_ms = now_ms > rate->at_ms ? now_ms - rate->at_ms : 0;

	if (gone_ms > room / rate->per_s)
		rate->credit = full(rate->per_s);
	else
		rate->credit += (int64_t)(gone_ms * rate->per_s);
	rate->at_ms = now_ms;
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
	if (rate->credit > full(per_s))
		rate->credit = full(per_s);
}

bool kvc_rate_ready(struct kvc_rate *rate, uint64_t now_ms)
{
	if (!rate->per_s)
		return true;
	accrue(rate, now_ms);
	return rate->credit > 0;
}

void kvc_rate_take(struct kvc_rate *rate, uint64_t bytes)
{
	KVC_PRE(bytes <= KVC_RATE_MAX);
	if (rate->per_s && rate->credit > INT64_MIN / 2)
		rate->credit -= (int64_t)bytes * PER_BYTE;
}

uint64_t kvc_rate_wait_ms(const struct kvc_rate *rate)
{
	return !rate->per_s || rate->credit > 0 ? 0 : (uint64_t)-rate->credit / rate->per_s + 1;
}
