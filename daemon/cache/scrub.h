/* The scrubber of RAM: images that rest there are checked in turn, so many bytes a second, on the engine's
 * threads; so a bit that flips in a block that nobody reads is found within (bytes of the arena / rate)
 * seconds. Reads check every tile in any case. */
#ifndef KVC_CACHE_SCRUB_H
#define KVC_CACHE_SCRUB_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/loop/loop.h"

struct kvc_cache;

struct kvc_scrub {
	uint64_t rate; /* bytes a second; 0: off */
	struct kvc_timer timer;
	uint32_t next;  /* entry */
	uint32_t entry; /* being checked */
	bool busy;
	struct kvc_engine_job job;
};

/* From now on, if the options ask for it; no more. kvc_cache_check_stopped comes when the last one ends. */
void kvc_scrub_start(struct kvc_cache *cache);
void kvc_scrub_stop(struct kvc_cache *cache);

#endif
