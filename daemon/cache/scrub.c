/* Checking what rests in RAM. See scrub.h.
 *
 *   timer --> next block that rests --> verify on the engine --> sound, or given up --> timer
 *
 * A block that is being filled, loaded or written is left out: it is checked in a later pass. The one that is
 * checked is held by a reference, so that its slab stays. */
#include "daemon/cache/scrub.h"

#include "daemon/base/log.h"
#include "daemon/cache/internal.h"

enum {
	LOOK_MAX = 16384, /* entries that are looked at in one turn */
	LOOK_MS = 10,     /* until the next turn, when none of them rests in RAM */
	PASS_MIN_MS = 1000,
};

static void timer_start(struct kvc_cache *cache, uint64_t delay_ms)
{
	/* The timer that fired last has left its slot; without memory the scrubber rests until a restart. */
	if (cache->state == KVC_CACHE_READY &&
	    kvc_timer_start(cache->options.loop, &cache->scrub.timer, delay_ms) != KVC_OK)
		kvc_warn("no memory for the timer of the scrubber of RAM");
}

/* Another copy can take its place, and nobody else is at this one. */
static bool only_this_copy(const struct kvc_entry *entry)
{
	return entry->flags & (KVC_ENTRY_ON_DISK | KVC_ENTRY_IN_VRAM) && !entry->refs && !entry->pins &&
	       !kvc_entry_in_flight(entry);
}

/* Its own reference is given back. */
static void bad(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	kvc_stat_add(cache->count.scrub_bad, 1);
	kvc_stat_add(cache->count.corrupt, 1);
	kvc_warn("block %02x%02x%02x%02x... rests damaged in RAM, dropped from there", entry->key.bytes[0],
	         entry->key.bytes[1], entry->key.bytes[2], entry->key.bytes[3]);
	if (only_this_copy(entry))
		kvc_entry_evict(cache, id);
	else
		kvc_entry_drop(cache, id);
}

static void verify_done(struct kvc_engine_job *job)
{
	struct kvc_scrub *scrub = kvc_container_of(job, struct kvc_scrub, job);
	struct kvc_cache *cache = kvc_container_of(scrub, struct kvc_cache, scrub);
	bool gone = kvc_cache_entry(cache, scrub->entry)->flags & KVC_ENTRY_DEAD;

	scrub->busy = false;
	kvc_stat_add(cache->count.scrub_bytes, (int64_t)job->image_bytes);
	kvc_entry_unref(cache, scrub->entry);
	if (job->status == KVC_CORRUPT && !gone)
		bad(cache, scrub->entry);
	timer_start(cache, job->image_bytes * 1000 / scrub->rate + 1);
	kvc_cache_check_stopped(cache);
}

static bool resting(const struct kvc_entry *entry)
{
	return entry->flags & KVC_ENTRY_VISIBLE && entry->slab != KVC_EXTENT_NONE &&
	       !kvc_entry_in_flight(entry);
}

/* False: none in this turn. */
static bool next_resting(struct kvc_cache *cache)
{
	struct kvc_scrub *scrub = &cache->scrub;
	uint32_t end = kvc_index_high(cache->index);

	for (uint32_t looks = 0; looks < LOOK_MAX && scrub->next < end; looks++) {
		scrub->entry = scrub->next++;
		if (resting(kvc_cache_entry(cache, scrub->entry)))
			return true;
	}
	return false;
}

static void scrub_fired(struct kvc_timer *timer)
{
	struct kvc_scrub *scrub = kvc_container_of(timer, struct kvc_scrub, timer);
	struct kvc_cache *cache = kvc_container_of(scrub, struct kvc_cache, scrub);
	const struct kvc_entry *entry;

	if (!next_resting(cache)) {
		bool over = scrub->next >= kvc_index_high(cache->index);

		if (over)
			scrub->next = 0;
		kvc_stat_add(cache->count.scrub_passes, over);
		timer_start(cache, over ? PASS_MIN_MS : LOOK_MS);
		return;
	}
	entry = kvc_cache_entry(cache, scrub->entry);
	scrub->busy = true;
	kvc_entry_ref(cache, scrub->entry);
	scrub->job = (struct kvc_engine_job){
	        .op = KVC_ENGINE_VERIFY,
	        .image = kvc_entry_record(cache, entry) + KVC_RECORD_HEADER_BYTES,
	        .image_bytes = entry->image_bytes,
	        .vram = KVC_VRAM_NONE,
	        .done = verify_done,
	};
	kvc_engine_submit(cache->options.engine, &scrub->job);
}

void kvc_scrub_start(struct kvc_cache *cache)
{
	cache->scrub.rate = cache->options.scrub_rate;
	cache->scrub.timer.fire = scrub_fired;
	if (cache->scrub.rate)
		timer_start(cache, PASS_MIN_MS);
}

void kvc_scrub_stop(struct kvc_cache *cache)
{
	kvc_timer_stop(&cache->scrub.timer);
}
