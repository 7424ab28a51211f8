/* See resting.h. */
#include "tests/support/resting.h"

#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/tier/disk_private.h"
#include "kernels/codec.h"
#include "tests/support/loop_run.h"

#define ARENA_BYTES (16ull << 20)

enum { RECORD_PAGES = 16, SEGMENT_PAGES = (256 << 20) / KVC_PAGE_BYTES };

struct kvc_resting {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_arena *arena;
	struct kvc_engine *engine;
	struct kvc_cache *cache;
	struct kvc_ns *ns;
	struct kvc_disk disk; /* segments and events alone */
	uint32_t blocks;
	bool flag;
};

void kvc_resting_key(uint64_t block, uint8_t key[KVC_RESTING_KEY_BYTES])
{
	memset(key, 0x5A, KVC_RESTING_KEY_BYTES);
	memcpy(key, &block, sizeof block);
}

/* ---- the tier ------------------------------------------------------------------------------ */

static struct kvc_resting *resting_of(struct kvc_tier *tier)
{
	return kvc_container_of(disk_of(tier), struct kvc_resting, disk);
}

static void answer(struct kvc_task *task)
{
	struct kvc_tier_req *req = kvc_container_of(task, struct kvc_tier_req, deferred);

	req->done(req);
}

/* Of the requests only a sync succeeds. */
static void submit(struct kvc_tier *tier, struct kvc_tier_req *req)
{
	req->status = req->op == KVC_TIER_SYNC ? KVC_OK : KVC_UNAVAILABLE;
	req->deferred.run = answer;
	kvc_loop_defer(resting_of(tier)->loop, &req->deferred);
}

static void forget(struct kvc_tier *tier, const struct kvc_record *record)
{
	kvc_disk_forget(disk_of(tier), record);
}

static bool record_report(struct kvc_resting *resting, struct disk_segment *segment, uint64_t block)
{
	struct kvc_record record = {
	        .place = {segment->number, segment->end_page},
	        .epoch = segment->epoch,
	        .image_bytes = RECORD_PAGES * KVC_PAGE_BYTES - KVC_RECORD_HEADER_BYTES,
	        .tokens = 16,
	        .tenant = {1},
	};
	uint8_t key[KVC_RESTING_KEY_BYTES];
	uint32_t cookie;

	kvc_resting_key(block, key);
	kvc_ns_key(resting->ns, key, sizeof key, &record.key);
	if (kvc_disk_segment_append(segment, DISK_NO_COOKIE, RECORD_PAGES) != KVC_OK ||
	    !resting->disk.events.recovered(resting->disk.events.context, &record, &cookie))
		return false;
	kvc_disk_segment_adopt(segment, cookie);
	return true;
}

static kvc_status segment_report(struct kvc_resting *resting, struct disk_segment *segment, uint64_t *block)
{
	kvc_disk_segment_move(segment, DISK_SCANNING);
	kvc_disk_segment_reset(segment, segment->number + 1);
	while (*block < resting->blocks && kvc_disk_segment_fits(segment, RECORD_PAGES))
		if (!record_report(resting, segment, (*block)++))
			return KVC_NO_MEMORY;
	kvc_list_remove(&segment->dirty);
	kvc_disk_segment_move(segment, DISK_SEALED);
	kvc_disk_segment_trim(segment);
	return KVC_OK;
}

static void recover(struct kvc_tier *tier, const struct kvc_tier_events *events,
                    void (*done)(void *context, kvc_status status), void *context)
{
	struct kvc_resting *resting = resting_of(tier);
	kvc_status status = KVC_OK;
	uint64_t block = 0;

	resting->disk.events = *events;
	for (uint32_t i = 0; status == KVC_OK && i < resting->disk.segment_count; i++)
		status = segment_report(resting, &resting->disk.segments[i], &block);
	done(context, status == KVC_OK && block < resting->blocks ? KVC_LIMIT : status);
}

static const struct kvc_tier_ops tier_ops = {
        .name = "resting",
        .submit = submit,
        .forget = forget,
        .recover = recover,
};

static kvc_status disk_open(struct kvc_resting *resting)
{
	struct kvc_disk *disk = &resting->disk;
	uint32_t least =
	        SEGMENT_PAGES / (RECORD_PAGES + 1); /* records of a segment, with room for a summary */

	disk->base.ops = &tier_ops;
	disk->loop = resting->loop;
	disk->segment_pages = SEGMENT_PAGES;
	disk->segment_count = resting->blocks / least + 1;
	kvc_list_init(&disk->sync.dirty);
	kvc_disk_stats_open(disk, resting->stats, 0);
	disk->segments = kvc_calloc(disk->segment_count, sizeof *disk->segments);
	if (!disk->segments)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < disk->segment_count; i++) {
		disk->segments[i].disk = disk;
		disk->segments[i].number = i;
		disk->segments[i].file.fd = -1;
		kvc_list_init(&disk->segments[i].dirty);
	}
	return KVC_OK;
}

static void disk_close(struct kvc_disk *disk)
{
	for (uint32_t i = 0; disk->segments && i < disk->segment_count; i++)
		kvc_free(disk->segments[i].entries);
	kvc_free(disk->segments);
}

/* ---- the cache ----------------------------------------------------------------------------- */

static void recovered(void *context, kvc_status status)
{
	((struct kvc_resting *)context)->flag = status == KVC_OK;
}

static kvc_status cache_open(struct kvc_resting *resting)
{
	struct kvc_cache_options options = {
	        .loop = resting->loop,
	        .stats = resting->stats,
	        .arena = resting->arena,
	        .engine = resting->engine,
	        .disk = &resting->disk.base,
	        .secret = {{7}},
	        .ops_max = 64,
	        .moves_max = 16,
	};
	struct kvc_ns_options ns = {
	        .tenant = "resting",
	        .model = "resting",
	        .shape = {.layers = 1,
	                  .heads = 1,
	                  .key_dim = 128,
	                  .value_dim = 128,
	                  .tokens = 16,
	                  .dtype = KVC_DTYPE_BF16},
	        .shards = 1,
	};
	kvc_status status = kvc_cache_open(&options, &resting->cache);

	if (status == KVC_OK)
		status = kvc_preset_get("quality", &ns.codec);
	if (status == KVC_OK)
		status = kvc_ns_open(resting->cache, &ns, &resting->ns);
	if (status != KVC_OK)
		return status;
	kvc_cache_recover(resting->cache, recovered, resting);
	return resting->flag ? KVC_OK : KVC_NO_MEMORY;
}

kvc_status kvc_resting_open(uint32_t blocks, struct kvc_resting **out)
{
	struct kvc_resting *resting = kvc_calloc(1, sizeof *resting);
	kvc_status status = resting ? KVC_OK : KVC_NO_MEMORY;

	if (status != KVC_OK)
		return status;
	resting->blocks = blocks;
	status = kvc_loop_open(&resting->loop);
	if (status == KVC_OK)
		status = kvc_stats_open(&resting->stats);
	if (status == KVC_OK)
		status = kvc_arena_open(ARENA_BYTES, resting->stats, &resting->arena);
	if (status == KVC_OK)
		status = kvc_engine_cpu_open(resting->loop, 1, KVC_SIMD_SCALAR, &resting->engine);
	if (status == KVC_OK)
		status = disk_open(resting);
	if (status == KVC_OK)
		status = cache_open(resting);
	if (status == KVC_OK)
		*out = resting;
	return status;
}

static void stopped(void *context)
{
	((struct kvc_resting *)context)->flag = true;
}

void kvc_resting_close(struct kvc_resting *resting)
{
	resting->flag = false;
	kvc_ns_close(resting->ns);
	kvc_cache_stop(resting->cache, 0, stopped, resting);
	KVC_INVARIANT(kvc_test_run_until_set(resting->loop, &resting->flag));
	kvc_cache_close(resting->cache);
	disk_close(&resting->disk);
	kvc_engine_close(resting->engine);
	kvc_arena_close(resting->arena);
	kvc_loop_close(resting->loop);
	kvc_stats_close(resting->stats);
	kvc_free(resting);
}

struct kvc_cache *kvc_resting_cache(struct kvc_resting *resting)
{
	return resting->cache;
}

const struct kvc_ns *kvc_resting_ns(const struct kvc_resting *resting)
{
	return resting->ns;
}

uint64_t kvc_resting_index_bytes(const struct kvc_resting *resting)
{
	return (uint64_t)kvc_stat_get(kvc_stats_cell(resting->stats, "cache.index_bytes"));
}

uint64_t kvc_resting_tier_bytes(const struct kvc_resting *resting)
{
	const struct kvc_disk *disk = &resting->disk;
	uint64_t bytes = disk->segment_count * sizeof *disk->segments;

	for (uint32_t i = 0; i < disk->segment_count; i++)
		bytes += disk->segments[i].entry_capacity * sizeof *disk->segments[i].entries;
	return bytes;
}
