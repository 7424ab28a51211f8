/* The simulated daemon; see world.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "tests/sim/world.h"
#include "tests/support/row.h"

struct kvc_ns_options ns_options(const char *tenant)
{
	struct kvc_ns_options options = {
	        .tenant = tenant,
	        .model = "sim",
	        .shape = {.layers = 1,
	                  .heads = 1,
	                  .key_dim = DIM,
	                  .value_dim = DIM,
	                  .tokens = TOKENS,
	                  .dtype = KVC_DTYPE_BF16},
	        .shards = 1,
	};

	assert_int_equal(kvc_preset_get("quality", &options.codec), KVC_OK);
	return options;
}

static void recovered(void *context, kvc_status status)
{
	struct world *w = context;

	assert_int_equal(status, KVC_OK);
	w->recovered = true;
}

static uint64_t scrub_next;

void world_scrub(uint64_t rate)
{
	scrub_next = rate;
}

void cache_begin(struct world *w)
{
	struct kvc_ns_options ns = ns_options("a");
	struct kvc_cache_options options = {
	        .loop = w->loop,
	        .stats = w->stats,
	        .arena = w->arena,
	        .engine = w->engine,
	        .disk = w->tier,
	        .gpus = w->gpus,
	        .gpu_count = w->gpu_count,
	        .secret = w->secret,
	        .policy = w->policy,
	        .disk_day_bytes = w->disk_day_bytes,
	        .scrub_rate = scrub_next,
	        .ops_max = w->gpu_count > 1 ? 1024 : 64, /* enough to fill the slots of two */
	        .moves_max = 16,
	        .hash_mask = 0xF, /* many collisions */
	};

	assert_int_equal(kvc_cache_open(&options, &w->cache), KVC_OK);
	w->recovered = false;
	kvc_cache_recover(w->cache, recovered, w);
	assert_int_equal(kvc_ns_open(w->cache, &ns, &w->ns), KVC_OK);
}

/* Bytes that an image of a full block takes in VRAM. */
static uint64_t vram_block_bytes(void)
{
	struct kvc_ns_options options = ns_options("a");
	struct kvc_image_plan plan;

	assert_int_equal(kvc_image_plan_init(&plan, &options.shape, &options.codec), KVC_OK);
	return (plan.image_bytes + 4095) / 4096 * 4096;
}

static enum kvc_policy_kind policy_next;

void world_policy(enum kvc_policy_kind policy)
{
	policy_next = policy;
}

static uint64_t budget_next;

void world_budget(uint64_t disk_day_bytes)
{
	budget_next = disk_day_bytes;
}

void world_open_bare(struct world *w, uint64_t seed)
{
	*w = (struct world){.random.state = seed ? seed : 1,
	                    .secret.bytes = {7},
	                    .policy = policy_next,
	                    .disk_day_bytes = budget_next};
	assert_int_equal(sim_loop_open(&w->random, &w->loop), KVC_OK);
	assert_int_equal(kvc_stats_open(&w->stats), KVC_OK);
	assert_int_equal(kvc_arena_open(ARENA, w->stats, &w->arena), KVC_OK);
	assert_int_equal(sim_engine_open(w->loop, &w->engine), KVC_OK);
}

static void gpu_add(struct world *w, uint32_t vram_blocks)
{
	uint32_t n = w->gpu_count++;

	assert_int_equal(sim_gpu_open(w->loop, &w->random, vram_blocks * vram_block_bytes(), &w->gpus[n]),
	                 KVC_OK);
	w->pools[n] = sim_pool_open(w->gpus[n], POOL_PAGES, BYTES);
	w->gpu = w->gpus[0];
	w->pool = w->pools[0];
	w->form = KVC_OP_DEVICE;
}

static void world_open_with(struct world *w, uint64_t seed, uint32_t disk_records, uint32_t gpus,
                            uint32_t vram_blocks)
{
	world_open_bare(w, seed);
	if (disk_records) {
		assert_int_equal(sim_tier_open(w->loop, &w->random, disk_records, &w->disk), KVC_OK);
		w->tier = &w->disk->tier;
	}
	while (w->gpu_count < gpus)
		gpu_add(w, vram_blocks);
	cache_begin(w);
}

void world_open(struct world *w, uint64_t seed, uint32_t disk_records)
{
	world_open_with(w, seed, disk_records, 0, 0);
}

void world_open_gpu(struct world *w, uint64_t seed, uint32_t disk_records, uint32_t vram_blocks)
{
	world_open_with(w, seed, disk_records, 1, vram_blocks);
}

void world_open_gpus(struct world *w, uint64_t seed, uint32_t disk_records, uint32_t vram_blocks)
{
	world_open_with(w, seed, disk_records, 2, vram_blocks);
}

static void stop_done(void *context)
{
	((struct world *)context)->stopped = true;
}

void settle_until(struct world *w, const bool *set)
{
	for (unsigned i = 0; !(w->endless && *set) && sim_step(w->loop); i++)
		assert_true(i < STEPS_MAX);
}

void settle(struct world *w)
{
	for (unsigned i = 0; sim_step(w->loop); i++)
		assert_true(i < STEPS_MAX);
}

void cache_stop(struct world *w, uint64_t flush_ms)
{
	w->stopped = false;
	kvc_cache_stop(w->cache, flush_ms, stop_done, w);
	settle_until(w, &w->stopped);
	assert_true(w->stopped);
}

void cache_free(struct world *w)
{
	kvc_ns_close(w->ns);
	settle(w);
	kvc_cache_close(w->cache);
	w->cache = NULL;
}

void cache_end(struct world *w, uint64_t flush_ms)
{
	cache_stop(w, flush_ms);
	cache_free(w);
}

void world_close(struct world *w)
{
	if (w->cache)
		cache_end(w, 1000);
	kvc_engine_close(w->engine);
	kvc_arena_close(w->arena);
	for (uint32_t i = 0; i < w->gpu_count; i++) {
		sim_pool_free(w->pools[i]);
		sim_gpu_free(w->gpus[i]);
	}
	if (w->disk)
		sim_tier_free(w->disk);
	kvc_loop_close(w->loop);
	kvc_stats_close(w->stats);
	assert_int_equal(kvc_alloc_live(), 0);
}

int64_t stat(struct world *w, const char *name)
{
	return kvc_stat_get(kvc_stats_cell(w->stats, name));
}

struct kvc_ns *world_ns(struct world *w, struct kvc_ns *ns)
{
	struct kvc_ns *before = w->ns;

	w->ns = ns;
	return before;
}

int64_t tenant_stat(struct world *w, const char *tenant, const char *name)
{
	struct kvc_tenant_stat stats[KVC_TENANT_STATS];
	uint32_t count = kvc_cache_tenant_stats(w->cache, tenant, stats);

	for (uint32_t i = 0; i < count; i++)
		if (strcmp(stats[i].name + strlen("tenant."), name) == 0)
			return stats[i].value;
	fail_msg("no statistic tenant.%s", name);
	return 0;
}

/* ---- jobs ---- */

/* The elements of a content: small distinct bf16 numbers. */
void content_fill(uint32_t content, uint16_t *key, uint16_t *value)
{
	struct sim_random random = {.state = 0x1234567ull + content * 0x9E3779B97F4A7C15ull};

	for (unsigned i = 0; i < ELEMENTS; i++) {
		key[i] = (uint16_t)(0x3F00 | (sim_next(&random) & 0x80FF));
		value[i] = (uint16_t)(0x3E00 | (sim_next(&random) & 0x81FF));
	}
}

struct kvc_storage_key storage_key(struct world *w, uint32_t number)
{
	struct kvc_storage_key key;

	kvc_ns_key(w->ns, &number, sizeof number, &key);
	return key;
}

uint8_t rest_of(struct world *w, uint32_t number)
{
	struct kvc_storage_key key = storage_key(w, number);
	uint8_t rest;

	kvc_cache_lookup(w->cache, &key, 1, &rest);
	return rest;
}

enum block_class block_class(uint32_t number)
{
	static const enum block_class classes[] = {BLOCK_ENDS,  BLOCK_ENDS,  BLOCK_EPHEMERAL, BLOCK_MIXED,
	                                           BLOCK_MIXED, BLOCK_PLAIN, BLOCK_PLAIN,     BLOCK_PLAIN};

	return classes[number % 8];
}

bool hints_draw(struct world *w, uint32_t number)
{
	enum { SOON_MS = 40, LATER_MS = 1000 };
	enum block_class class = block_class(number);
	bool durable = class != BLOCK_ENDS && class != BLOCK_EPHEMERAL && sim_one_in(&w->random, 3);
	bool ends = class == BLOCK_ENDS || (class == BLOCK_MIXED && !sim_one_in(&w->random, 4));

	w->hints = (struct kvc_hints){.priority = (uint8_t)(sim_next(&w->random) % KVC_PRIORITIES)};
	if (durable || class == BLOCK_PLAIN)
		return durable;
	if (ends)
		w->hints.ttl_ms = 1 + (uint32_t)(sim_next(&w->random) %
		                                 (sim_one_in(&w->random, 3) ? LATER_MS : SOON_MS));
	w->hints.ephemeral = class == BLOCK_EPHEMERAL || (class == BLOCK_MIXED && sim_one_in(&w->random, 8));
	return false;
}

uint64_t hints_end(const struct world *w)
{
	return w->hints.ttl_ms ? kvc_loop_now_ms(w->loop) + w->hints.ttl_ms : UINT64_MAX;
}

static struct kvc_block_view view_of(const struct kvc_block_shape *shape, uint16_t *key, uint16_t *value)
{
	struct kvc_block_view view = {.key = key, .value = value};

	kvc_block_layout_default(shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(shape, KVC_KIND_VALUE, &view.value_layout);
	return view;
}

static struct kvc_block_view view_of_job(struct job *job)
{
	return view_of(&kvc_ns_plan(job->world->ns)->shape, job->key, job->value);
}

uint8_t *job_image(struct job *job)
{
	return job->image_room + (-(uintptr_t)job->image_room & (KVC_IMAGE_ALIGN - 1));
}

/* What a worker does with an image that it got. */
static void image_decode(struct job *job)
{
	struct kvc_block_view view = view_of_job(job);
	uint8_t *scratch = aligned_alloc(64, 65536);
	struct kvc_image image;

	assert_int_equal(kvc_image_open(job_image(job), job->op.image_bytes, 0, &image), KVC_OK);
	assert_int_equal(kvc_image_decode_tiles(&image, kvc_codec_get(KVC_SIMD_SCALAR), &view, 0,
	                                        image.plan.tiles, 0, scratch),
	                 KVC_OK);
	free(scratch);
}

/* What a worker does before it puts an image. */
static void image_encode(struct job *job)
{
	const struct kvc_image_plan *plan = kvc_ns_plan(job->world->ns);
	struct kvc_block_view view = view_of_job(job);
	uint8_t *scratch = aligned_alloc(64, 65536);

	kvc_image_encode_tiles(plan, kvc_codec_get(KVC_SIMD_SCALAR), &view, job_image(job), 0, plan->tiles,
	                       scratch);
	assert_int_equal(kvc_image_seal(plan, &view, job_image(job), IMAGE_ROOM, &job->op.external.bytes),
	                 KVC_OK);
	free(scratch);
}

static void job_done(struct kvc_op *op)
{
	struct job *job = kvc_container_of(op, struct job, op);

	assert_false(job->done);
	job->done = true;
	if (op->kind == KVC_OP_GET && op->form == KVC_OP_DEVICE) {
		memcpy(job->key, sim_pool_key(op->device.pool, job->page), BYTES);
		memcpy(job->value, sim_pool_value(op->device.pool, job->page), BYTES);
	}
	if (op->kind == KVC_OP_GET && op->form == KVC_OP_IMAGE && op->status == KVC_OK)
		image_decode(job);
}

void world_form(struct world *w, enum kvc_op_form form)
{
	w->form = form;
}

/* What the operation works on: the job's own arrays, a page of the pool, or the job's image. */
static void job_place(struct world *w, struct job *job)
{
	job->op.form = w->form;
	if (w->form == KVC_OP_DEVICE) {
		job->page = w->next_page++ % POOL_PAGES;
		job->op.device = (struct kvc_device_view){w->pool, &job->page, 1, 0, {0}};
	} else if (w->form == KVC_OP_IMAGE) {
		job->op.external = (struct kvc_image_view){job_image(job), IMAGE_ROOM};
	} else {
		job->op.view = view_of_job(job);
	}
}

void job_init(struct world *w, struct job *job, enum kvc_op_kind kind, uint32_t number)
{
	*job = (struct job){.world = w, .number = number};
	job->op = (struct kvc_op){.kind = kind, .ns = w->ns, .tokens = TOKENS, .done = job_done};
	job->op.key = storage_key(w, number);
	if (kind == KVC_OP_PUT)
		job->op.hints = w->hints;
	job_place(w, job);
}

void put_submit(struct world *w, struct job *job, uint32_t number, uint32_t content, bool durable)
{
	job_init(w, job, KVC_OP_PUT, number);
	job->content = content;
	job->op.durable = durable;
	content_fill(content, job->key, job->value);
	if (w->form == KVC_OP_DEVICE) {
		memcpy(sim_pool_key(w->pool, job->page), job->key, BYTES);
		memcpy(sim_pool_value(w->pool, job->page), job->value, BYTES);
	} else if (w->form == KVC_OP_IMAGE) {
		image_encode(job);
	}
	kvc_op_submit(w->cache, &job->op);
	assert_false(job->done);
}

void get_submit(struct world *w, struct job *job, uint32_t number)
{
	job_init(w, job, KVC_OP_GET, number);
	memset(job->key, 0xEE, sizeof job->key);
	memset(job->value, 0xEE, sizeof job->value);
	if (w->form == KVC_OP_DEVICE) {
		memset(sim_pool_key(w->pool, job->page), 0xEE, BYTES);
		memset(sim_pool_value(w->pool, job->page), 0xEE, BYTES);
	}
	kvc_op_submit(w->cache, &job->op);
	assert_false(job->done);
}

kvc_status finish(struct world *w, struct job *job)
{
	for (unsigned i = 0; !job->done; i++) {
		assert_true(sim_step(w->loop));
		assert_true(i < STEPS_MAX);
	}
	return job->op.status;
}

kvc_status put(struct world *w, uint32_t number, uint32_t content)
{
	struct job job;

	put_submit(w, &job, number, content, false);
	return finish(w, &job);
}

/* What a get must restore for a content: through the codec, without the cache, which may be closed. */
static void content_restore(uint32_t content, uint16_t key[ELEMENTS], uint16_t value[ELEMENTS])
{
	struct kvc_ns_options options = ns_options("a");
	struct kvc_block_view view = view_of(&options.shape, key, value);
	struct kvc_image_plan plan;
	uint8_t *image = aligned_alloc(64, 65536), *scratch = aligned_alloc(64, 65536);
	const struct kvc_codec *codec = kvc_codec_get(KVC_SIMD_SCALAR);
	struct kvc_image opened;
	uint64_t length;

	content_fill(content, key, value);
	assert_int_equal(kvc_image_plan_init(&plan, &options.shape, &options.codec), KVC_OK);
	assert_true(kvc_image_scratch_bytes(&plan) <= 65536 && plan.raw_image_bytes <= 65536);
	kvc_image_encode_tiles(&plan, codec, &view, image, 0, plan.tiles, scratch);
	assert_int_equal(kvc_image_seal(&plan, &view, image, 65536, &length), KVC_OK);
	assert_int_equal(kvc_image_open(image, length, 0, &opened), KVC_OK);
	assert_int_equal(kvc_image_decode_tiles(&opened, codec, &view, 0, plan.tiles, 0, scratch), KVC_OK);
	free(image);
	free(scratch);
}

bool restored_is(struct world *w, const struct job *job, uint32_t content)
{
	static uint16_t known[CONTENTS_KNOWN][2][ELEMENTS];
	static uint64_t holds[CONTENTS_KNOWN]; /* content + 1 */
	uint32_t slot = content % CONTENTS_KNOWN;
	bool same;

	(void)w;
	if (holds[slot] != content + 1ull)
		content_restore(content, known[slot][0], known[slot][1]);
	holds[slot] = content + 1ull;
	same = !memcmp(known[slot][0], job->key, BYTES) && !memcmp(known[slot][1], job->value, BYTES);
	kvc_row.verified += same;
	return same;
}

kvc_status get(struct world *w, uint32_t number, uint32_t content)
{
	struct job job;
	kvc_status status;

	get_submit(w, &job, number);
	status = finish(w, &job);
	if (status == KVC_OK)
		assert_true(restored_is(w, &job, content));
	return status;
}
