/* Look-up, prefetch, pin, unpin, drop: requests that carry keys only. */
#include <string.h>

#include "client/internal.h"

static kvc_status check_keys(const struct kvc_namespace *ns, uint16_t verb, const struct kvc_key *keys,
                             size_t count)
{
	if (!ns || (count > 0 && !keys))
		return kvcc_fail(KVC_INVALID, "%s: no namespace or no keys", kvc_verb_name(verb));
	for (size_t i = 0; i < count; i++) {
		if (!keys[i].data || keys[i].bytes == 0 || keys[i].bytes > KVC_KEY_BYTES_MAX)
			return kvcc_fail(KVC_INVALID, "%s: key %zu has %zu bytes, expected 1 to %u",
			                 kvc_verb_name(verb), i, keys[i].data ? keys[i].bytes : 0,
			                 KVC_KEY_BYTES_MAX);
	}
	return KVC_OK;
}

static kvc_status encode_keys(const struct kvcc_work *work, struct kvcc_request *request)
{
	struct kvcc_wire_keys wire = {
	        .ns = work->ns->id,
	        .deadline_ms = work->wire_deadline_ms,
	        .prefetch = work->verb == KVC_VERB_LOOKUP && work->ns->prefetch,
	        .keys = work->what,
	        .count = work->count,
	};

	return kvcc_wire_keys(&wire, &request->frame);
}

static struct kvcc_work keys_work(struct kvc_namespace *ns, uint16_t verb, uint32_t deadline_ms)
{
	return (struct kvcc_work){
	        .verb = verb,
	        .ns = ns,
	        .deadline_ms = deadline_ms,
	        .deadline_ns = kvcc_deadline(ns->client, deadline_ms),
	        .grace_ns = KVCC_GRACE_NS,
	        .encode = encode_keys,
	};
}

/* One request after the other. *sum adds up what each was carried out for; *prefix stops adding at the
 * first that was not carried out for all of its keys. */
static kvc_status run_parts(struct kvcc_work *work, const struct kvc_key *keys, size_t count, uint8_t *tiers,
                            size_t *sum, size_t *prefix)
{
	struct kvc_client *client = work->ns->client;
	struct kvcc_limits limits;
	kvc_status status = kvcc_limits_get(client, false, 0, &limits);

	*sum = 0;
	*prefix = 0;
	for (size_t done = 0; status == KVC_OK && done < count; done += work->count) {
		struct kvcc_call call = {.status = KVC_OK};
		size_t most = count - done < limits.batch ? count - done : limits.batch;

		work->what = keys + done;
		work->count = kvcc_wire_keys_fit(keys + done, most);
		call.to = (struct kvcc_answer){.count = work->count, .tiers = tiers ? tiers + done : NULL};
		status = kvcc_run(client, work, &call);
		if (*prefix == done)
			*prefix += call.prefix;
		*sum += call.prefix;
		if (work->verb == KVC_VERB_PIN && call.prefix < work->count)
			break;
	}
	return status;
}

kvc_status kvc_lookup(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count,
                      uint32_t deadline_ms, size_t *prefix, uint8_t *tiers)
{
	kvc_status status = check_keys(ns, KVC_VERB_LOOKUP, keys, count);
	uint8_t *answer = NULL;
	struct kvcc_work work;
	size_t sum;
	size_t leading;

	if (status == KVC_OK && !prefix)
		status = kvcc_fail(KVC_INVALID, "kvc_lookup: nowhere to put the answer");
	if (status != KVC_OK)
		return status;
	if (tiers) { /* the caller's is written on success only, and several requests may be needed */
		answer = kvcc_alloc_zero(count, 1);
		if (!answer)
			return kvcc_fail(KVC_NO_MEMORY, "no memory for a look-up of %zu keys", count);
	}
	work = keys_work(ns, KVC_VERB_LOOKUP, deadline_ms);
	status = run_parts(&work, keys, count, answer, &sum, &leading);
	if (status == KVC_OK) {
		*prefix = leading;
		if (tiers)
			memcpy(tiers, answer, count);
	}
	kvcc_free(answer);
	return status;
}

static kvc_status run_keys(struct kvc_namespace *ns, uint16_t verb, const struct kvc_key *keys, size_t count,
                           uint32_t deadline_ms, size_t *done)
{
	kvc_status status = check_keys(ns, verb, keys, count);
	struct kvcc_work work;
	size_t leading;
	size_t sum;

	if (status == KVC_OK && !done)
		status = kvcc_fail(KVC_INVALID, "%s: nowhere to put the answer", kvc_verb_name(verb));
	if (status != KVC_OK)
		return status;
	work = keys_work(ns, verb, deadline_ms);
	status = run_parts(&work, keys, count, NULL, &sum, &leading);
	if (status == KVC_OK)
		*done = sum;
	return status;
}

kvc_status kvc_prefetch(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count,
                        uint32_t deadline_ms, size_t *done)
{
	return run_keys(ns, KVC_VERB_PREFETCH, keys, count, deadline_ms, done);
}

kvc_status kvc_pin(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count, uint32_t deadline_ms,
                   size_t *done)
{
	return run_keys(ns, KVC_VERB_PIN, keys, count, deadline_ms, done);
}

kvc_status kvc_unpin(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count, uint32_t deadline_ms,
                     size_t *done)
{
	return run_keys(ns, KVC_VERB_UNPIN, keys, count, deadline_ms, done);
}

kvc_status kvc_drop(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count, uint32_t deadline_ms,
                    size_t *done)
{
	return run_keys(ns, KVC_VERB_DROP, keys, count, deadline_ms, done);
}

kvc_status kvc_lookup_submit(struct kvc_namespace *ns, const struct kvc_key *keys, size_t count,
                             uint32_t deadline_ms, uint8_t *tiers, void *tag)
{
	struct kvcc_answer to = {.count = count, .tiers = tiers};
	kvc_status status = check_keys(ns, KVC_VERB_LOOKUP, keys, count);
	struct kvcc_work work;

	if (status == KVC_OK && count == 0)
		status = kvcc_fail(KVC_INVALID, "a request needs at least one key");
	if (status != KVC_OK)
		return status;
	work = keys_work(ns, KVC_VERB_LOOKUP, deadline_ms);
	work.what = keys;
	work.count = count;
	return kvcc_submit(ns->client, &work, &to, tag);
}
