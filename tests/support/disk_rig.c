/* The disk tier's test rig. */
#include "tests/support/disk_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/image.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"
#include "tests/support/row.h"

enum { TOKENS = 16, DIM = 64 };

/* Layers of each size class: records of 8 KiB to about 300 KiB. */
static const uint32_t size_layers[RIG_SIZES] = {1, 4, 16, 64};

/* --- blocks --------------------------------------------------------------------------------------- */

static void plan_of(uint32_t size, struct kvc_image_plan *plan)
{
	struct kvc_block_shape shape = {
	        .layers = size_layers[size],
	        .heads = 2,
	        .key_dim = DIM,
	        .value_dim = DIM,
	        .tokens = TOKENS,
	        .dtype = KVC_DTYPE_BF16,
	};
	struct kvc_block_codec codec;

	assert_int_equal(kvc_preset_get("raw", &codec), KVC_OK);
	assert_int_equal(kvc_image_plan_init(plan, &shape, &codec), KVC_OK);
}

uint64_t rig_image_bytes(uint32_t size)
{
	struct kvc_image_plan plan;

	plan_of(size, &plan);
	return plan.raw_image_bytes;
}

uint64_t rig_record_bytes(uint32_t size)
{
	return kvc_record_bytes(rig_image_bytes(size));
}

static uint32_t size_of(uint64_t image_bytes)
{
	uint32_t size = 0;

	while (rig_image_bytes(size) != image_bytes)
		assert_true(++size < RIG_SIZES);
	return size;
}

/* The image of a block: noise of its number's own. */
static void image_make(uint32_t block, uint32_t size, uint8_t *image, uint64_t capacity)
{
	struct prng prng = {.state = block * 1000003u + 17};
	struct kvc_block_view view = {.key = NULL};
	struct kvc_image_plan plan;
	size_t bytes;
	uint64_t length;
	uint8_t *raw;
	void *scratch;

	plan_of(size, &plan);
	bytes = kvc_block_raw_bytes(&plan.shape);
	raw = malloc(bytes);
	scratch = aligned_alloc(64, (kvc_image_scratch_bytes(&plan) + 127) / 64 * 64);
	for (size_t i = 0; i < bytes; i += 2) {
		uint16_t element = (uint16_t)(prng_next(&prng) & 0x3FFF);

		memcpy(raw + i, &element, 2);
	}
	view.key = raw;
	view.value = raw + bytes / 2;
	kvc_block_layout_default(&plan.shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(&plan.shape, KVC_KIND_VALUE, &view.value_layout);
	kvc_image_encode_tiles(&plan, kvc_codec_get(KVC_SIMD_SCALAR), &view, image, 0, plan.tiles, scratch);
	assert_int_equal(kvc_image_seal(&plan, &view, image, capacity, &length), KVC_OK);
	assert_int_equal(length, rig_image_bytes(size));
	free(scratch);
	free(raw);
}

static void key_make(uint32_t block, struct kvc_storage_key *key)
{
	struct prng prng = {.state = block};

	for (unsigned i = 0; i < sizeof key->bytes; i++)
		key->bytes[i] = (uint8_t)prng_next(&prng);
	memcpy(key->bytes, &block, sizeof block); /* so that a report can be told */
}

/* Four tenants in turn. */
static void tenant_make(uint32_t block, uint8_t tenant[16])
{
	memset(tenant, 0, 16);
	tenant[0] = 0x77;
	tenant[15] = (uint8_t)(block % 4);
}

/* --- life ----------------------------------------------------------------------------------------- */

bool rig_encrypted;

void rig_init(struct rig *rig)
{
	memset(rig, 0, sizeof *rig);
	kvc_key_init();
	kvc_test_temp_dir(rig->directory);
	rig->options = (struct kvc_disk_options){
	        .directory = rig->directory,
	        .bytes = 16u << 20,
	        .segment_bytes = 1u << 20,
	};
	memset(&rig->key, 0x4B, sizeof rig->key);
	rig->options.key = rig_encrypted ? &rig->key : NULL;
	rig->io_options = (struct kvc_io_options){.backend = KVC_IO_AUTO, .depth = 32};
}

void rig_destroy(struct rig *rig)
{
	rig_stop(rig);
	kvc_test_temp_dir_remove(rig->directory);
}

kvc_status rig_open(struct rig *rig)
{
	kvc_status status;

	if (kvc_loop_open(&rig->loop))
		return KVC_NO_MEMORY;
	if (kvc_stats_open(&rig->stats))
		goto close_loop;
	if (kvc_io_open(rig->loop, &rig->io_options, rig->stats, &rig->io))
		goto close_stats;
	if (kvc_engine_cpu_open(rig->loop, 1, KVC_SIMD_SCALAR, &rig->engine))
		goto close_io;
	rig->options.engine = rig->engine;
	status = kvc_disks_open(rig->loop, rig->io, rig->stats, &rig->options, rig->detail,
	                        sizeof rig->detail, &rig->secret, &rig->tier);
	if (status == KVC_OK)
		return KVC_OK;
	rig->tier = NULL;
	kvc_engine_close(rig->engine);
	kvc_io_close(rig->io);
	kvc_stats_close(rig->stats);
	kvc_loop_close(rig->loop);
	rig->loop = NULL;
	return status;

close_io:
	kvc_io_close(rig->io);
close_stats:
	kvc_stats_close(rig->stats);
close_loop:
	kvc_loop_close(rig->loop);
	rig->loop = NULL;
	return KVC_NO_MEMORY;
}

static bool block_recovered(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	struct rig *rig = context;
	struct rig_block *block;
	uint8_t tenant[16];
	uint32_t number;

	memcpy(&number, record->key.bytes, sizeof number);
	assert_true(number < RIG_BLOCKS);
	tenant_make(number, tenant);
	assert_memory_equal(record->tenant, tenant, sizeof tenant);
	assert_true(record->epoch >= rig->recovered_epoch || rig->striped);
	rig->recovered_epoch = record->epoch;
	rig->recovered++;
	if (record->generation > rig->generation)
		rig->generation = record->generation;
	block = &rig->blocks[number];
	if (block->stored && (record->copy || block->record.generation > record->generation))
		return false;
	if (block->stored)
		rig->tier->ops->forget(rig->tier, &block->record);
	block->stored = true;
	block->record = *record;
	block->size = size_of(record->image_bytes);
	*cookie = number;
	return true;
}

static void block_reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	struct rig *rig = context;
	struct rig_block *block = &rig->blocks[cookie];

	assert_true(cookie < RIG_BLOCKS);
	rig->reclaimed++;
	if (block->stored && block->record.place.segment == place.segment &&
	    block->record.place.page == place.page)
		block->stored = block->synced = false;
}

static bool block_describe(void *context, uint32_t cookie, struct kvc_record *record)
{
	const struct rig *rig = context;
	const struct rig_block *block = &rig->blocks[cookie];

	assert_true(cookie < RIG_BLOCKS);
	if (!block->stored || block->record.place.segment != record->place.segment ||
	    block->record.place.page != record->place.page || block->record.epoch != record->epoch)
		return false;
	*record = block->record;
	return true;
}

static bool block_keep(void *context, uint32_t cookie, struct kvc_record *record)
{
	const struct rig *rig = context;

	return rig->blocks[cookie].used && block_describe(context, cookie, record);
}

static bool block_moved(void *context, uint32_t cookie, struct kvc_place from,
                        const struct kvc_record *record)
{
	struct rig *rig = context;
	struct rig_block *block = &rig->blocks[cookie];

	rig->moved++;
	if (!block->stored || block->record.place.segment != from.segment ||
	    block->record.place.page != from.page)
		return false;
	assert_memory_equal(&record->key, &block->record.key, sizeof record->key);
	assert_int_equal(record->generation, block->record.generation);
	block->record = *record;
	block->used = false;
	return true;
}

static void recovered(void *context, kvc_status status)
{
	assert_int_equal(status, KVC_OK);
	*(bool *)context = true;
}

static void note_ask(void *context, struct kvc_tier_note *note)
{
	*note = ((const struct rig *)context)->note;
}

static void note_told(void *context, const struct kvc_tier_note *note)
{
	((struct rig *)context)->noted = *note;
}

void rig_recover(struct rig *rig)
{
	struct kvc_tier_events events = {
	        .recovered = block_recovered,
	        .reclaimed = block_reclaimed,
	        .describe = rig->no_checkpoint ? NULL : block_describe,
	        .keep = block_keep,
	        .moved = block_moved,
	        .note = note_ask,
	        .noted = note_told,
	        .context = rig,
	};
	bool done = false;

	for (uint32_t i = 0; i < RIG_BLOCKS; i++)
		rig->blocks[i].stored = false;
	rig->recovered = 0;
	rig->recovered_epoch = 0;
	rig->tier->ops->recover(rig->tier, &events, recovered, &done);
	assert_false(done);
	assert_true(kvc_test_run_until_set(rig->loop, &done));
}

void rig_start(struct rig *rig)
{
	kvc_status status = rig_open(rig);

	if (status)
		print_message("open: %s: %s\n", kvc_status_text(status), rig->detail);
	assert_int_equal(status, KVC_OK);
	rig_recover(rig);
	assert_true(rig->tier->writable);
	for (uint32_t i = 0; i < 4; i++) {
		uint8_t tenant[16];

		tenant_make(i, tenant);
		rig->incarnation[i] = rig->tier->ops->incarnation(rig->tier, tenant);
	}
}

static void closed(void *context)
{
	*(bool *)context = true;
}

void rig_stop(struct rig *rig)
{
	bool done = false;

	if (!rig->loop)
		return;
	rig->tier->ops->close(rig->tier, closed, &done);
	assert_false(done);
	assert_true(kvc_test_run_until_set(rig->loop, &done));
	rig->tier = NULL;
	kvc_engine_close(rig->engine);
	kvc_io_close(rig->io);
	kvc_stats_close(rig->stats);
	kvc_loop_close(rig->loop);
	rig->loop = NULL;
}

void rig_restart_scanning(struct rig *rig)
{
	rig_stop(rig);
	rig->options.verify_on_start = true;
	rig_start(rig);
}

/* --- requests ------------------------------------------------------------------------------------- */

static void tenant_take_in(const struct rig_request *request)
{
	struct rig *rig = request->rig;
	uint32_t *incarnation = &rig->incarnation[request->block % 4];

	if (request->req.status == KVC_OK)
		assert_true(request->req.record.incarnation >= *incarnation);
	*incarnation = request->req.record.incarnation;
	for (uint32_t i = request->block % 4; request->req.status == KVC_OK && i < RIG_BLOCKS; i += 4)
		if (rig->blocks[i].stored)
			rig_forget(rig, i);
}

/* At once: a later event may take the place back. */
static void request_take_in(const struct rig_request *request)
{
	struct rig_block *block = &request->rig->blocks[request->block];

	if (request->req.op == KVC_TIER_FORGET_TENANT)
		tenant_take_in(request);
	if (request->req.op != KVC_TIER_STORE || request->req.status != KVC_OK)
		return;
	if (block->stored)
		request->rig->tier->ops->forget(request->rig->tier, &block->record);
	block->stored = true;
	block->synced = false;
	block->record = request->req.record;
	block->size = size_of(block->record.image_bytes);
}

static void request_done(struct kvc_tier_req *req)
{
	struct rig_request *request = kvc_container_of(req, struct rig_request, req);

	assert_false(request->done);
	request->done = true;
	request_take_in(request);
}

static struct rig_request *request_new(struct rig *rig, enum kvc_tier_op op, uint32_t block, uint64_t bytes)
{
	struct rig_request *request = calloc(1, sizeof *request);

	request->rig = rig;
	request->block = block;
	request->req.op = op;
	request->req.done = request_done;
	request->req.slab = bytes ? aligned_alloc(KVC_IO_ALIGN, bytes) : NULL;
	return request;
}

struct rig_request *rig_store_begin(struct rig *rig, uint32_t block, uint32_t size)
{
	uint64_t image_bytes = rig_image_bytes(size);
	struct rig_request *request = request_new(rig, KVC_TIER_STORE, block, kvc_record_bytes(image_bytes));

	memset(request->req.slab, 0x5A, kvc_record_bytes(image_bytes));
	image_make(block, size, request->req.slab + KVC_RECORD_HEADER_BYTES, image_bytes);
	request->req.cookie = block;
	request->req.record = (struct kvc_record){
	        .generation = ++rig->generation,
	        .image_bytes = image_bytes,
	        .tokens = TOKENS,
	};
	key_make(block, &request->req.record.key);
	tenant_make(block, request->req.record.tenant);
	request->req.record.incarnation = rig->incarnation[block % 4];
	rig->tier->ops->submit(rig->tier, &request->req);
	assert_false(request->done);
	return request;
}

struct rig_request *rig_load_begin(struct rig *rig, uint32_t block)
{
	const struct kvc_record *record = &rig->blocks[block].record;
	struct rig_request *request =
	        request_new(rig, KVC_TIER_LOAD, block, kvc_record_bytes(record->image_bytes));

	memset(request->req.slab, 0xA5, kvc_record_bytes(record->image_bytes));
	request->req.record = (struct kvc_record){
	        .key = record->key,
	        .place = record->place,
	        .epoch = record->epoch,
	        .image_bytes = record->image_bytes,
	        .tokens = record->tokens,
	};
	rig->tier->ops->submit(rig->tier, &request->req);
	assert_false(request->done);
	return request;
}

struct rig_request *rig_drop_tenant_begin(struct rig *rig, uint32_t number)
{
	struct rig_request *request = request_new(rig, KVC_TIER_FORGET_TENANT, number, 0);

	tenant_make(number, request->req.record.tenant);
	rig->tier->ops->submit(rig->tier, &request->req);
	assert_false(request->done);
	return request;
}

struct rig_request *rig_sync_begin(struct rig *rig)
{
	struct rig_request *request = request_new(rig, KVC_TIER_SYNC, 0, 0);

	rig->tier->ops->submit(rig->tier, &request->req);
	assert_false(request->done);
	return request;
}

static void request_free(struct rig_request *request)
{
	free(request->req.slab);
	free(request);
}

kvc_status rig_end(struct rig_request *request)
{
	kvc_status status;

	assert_true(kvc_test_run_until_set(request->rig->loop, &request->done));
	status = request->req.status;
	request_free(request);
	return status;
}

static enum rig_answer judge(const struct rig_request *request)
{
	uint64_t bytes = request->req.record.image_bytes;
	const uint8_t *image = request->req.slab + KVC_RECORD_HEADER_BYTES;
	struct kvc_image opened;
	enum rig_answer answer;
	uint8_t *right;

	if (request->req.status != KVC_OK)
		return RIG_MISSING;
	if (kvc_image_open(image, bytes, 0, &opened) || kvc_image_verify(&opened))
		return RIG_DAMAGED;
	right = aligned_alloc(KVC_IMAGE_ALIGN, (bytes + 63) / 64 * 64);
	image_make(request->block, size_of(bytes), right, bytes);
	answer = memcmp(image, right, bytes) ? RIG_WRONG : RIG_RIGHT;
	free(right);
	return answer;
}

enum rig_answer rig_load_end(struct rig_request *request)
{
	enum rig_answer answer;

	assert_true(kvc_test_run_until_set(request->rig->loop, &request->done));
	answer = judge(request);
	kvc_row.verified += answer == RIG_RIGHT;
	kvc_row.wrong += answer == RIG_WRONG;
	request_free(request);
	return answer;
}

kvc_status rig_drop_tenant(struct rig *rig, uint32_t number)
{
	return rig_end(rig_drop_tenant_begin(rig, number));
}

kvc_status rig_store(struct rig *rig, uint32_t block, uint32_t size)
{
	return rig_end(rig_store_begin(rig, block, size));
}

enum rig_answer rig_load(struct rig *rig, uint32_t block)
{
	return rig_load_end(rig_load_begin(rig, block));
}

/* What was stored when it began is durable when it succeeds. */
kvc_status rig_sync(struct rig *rig)
{
	static bool before[RIG_BLOCKS];
	kvc_status status;

	for (uint32_t i = 0; i < RIG_BLOCKS; i++)
		before[i] = rig->blocks[i].stored;
	status = rig_end(rig_sync_begin(rig));
	for (uint32_t i = 0; status == KVC_OK && i < RIG_BLOCKS; i++)
		rig->blocks[i].synced = before[i] && rig->blocks[i].stored;
	return status;
}

void rig_forget(struct rig *rig, uint32_t block)
{
	rig->tier->ops->forget(rig->tier, &rig->blocks[block].record);
	rig->blocks[block].stored = rig->blocks[block].synced = false;
}

int64_t rig_stat(struct rig *rig, const char *name)
{
	return kvc_stat_get(kvc_stats_cell(rig->stats, name));
}

uint32_t rig_check_all(struct rig *rig, bool faulty)
{
	uint32_t right = 0;

	for (uint32_t i = 0; i < RIG_BLOCKS; i++) {
		enum rig_answer answer;

		if (!rig->blocks[i].stored)
			continue;
		answer = rig_load(rig, i);
		assert_true(answer == RIG_RIGHT || (faulty && answer != RIG_WRONG));
		right += answer == RIG_RIGHT;
	}
	return right;
}
