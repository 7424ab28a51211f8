/* What rests on disk, bit by bit: record header, superblock, segment header, and what a scan accepts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/tier/record.h"
#include "daemon/tier/segment.h"
#include "kernels/image.h"
#include "tests/support/row.h"
#include "tests/support/super_version.h"

enum { IMAGE_BYTES = 3000, RECORD_BYTES = 4096, SEGMENT_BYTES = 1 << 20 };

static _Alignas(4096) uint8_t bytes[RECORD_BYTES];

static struct kvc_record sample(void)
{
	struct kvc_record record = {
	        .place = {.segment = 3, .page = 17},
	        .epoch = 99,
	        .generation = 1234,
	        .image_bytes = IMAGE_BYTES,
	        .tokens = 64,
	        .depth = 5,
	};

	memset(record.key.bytes, 0x11, sizeof record.key.bytes);
	memset(record.parent.bytes, 0x22, sizeof record.parent.bytes);
	memset(record.tenant, 0x33, sizeof record.tenant);
	record.incarnation = 7;
	memset(record.device, 0x44, sizeof record.device);
	return record;
}

static struct kvc_segment_header sample_segment(void)
{
	struct kvc_segment_header header = {.number = 3, .epoch = 99, .segment_bytes = SEGMENT_BYTES};

	memset(header.instance, 0x44, sizeof header.instance);
	return header;
}

static void seal_sample(const struct kvc_record *record)
{
	for (uint32_t i = 0; i < RECORD_BYTES; i++)
		bytes[i] = (uint8_t)(i * 31);
	kvc_record_seal(record, bytes);
}

static void test_sizes(void **state)
{
	(void)state;
	assert_int_equal(kvc_record_bytes(256), 4096);
	assert_int_equal(kvc_record_bytes(4096 - 512), 4096);
	assert_int_equal(kvc_record_bytes(4096 - 511), 8192);
}

static void test_round_trip(void **state)
{
	struct kvc_record record = sample(), back;

	(void)state;
	seal_sample(&record);
	assert_int_equal(kvc_record_parse(bytes, RECORD_BYTES, &back), KVC_OK);
	assert_memory_equal(back.key.bytes, record.key.bytes, sizeof back.key.bytes);
	assert_memory_equal(back.parent.bytes, record.parent.bytes, sizeof back.parent.bytes);
	assert_memory_equal(back.tenant, record.tenant, sizeof back.tenant);
	assert_memory_equal(back.device, record.device, sizeof back.device);
	assert_int_equal(back.place.segment, 3);
	assert_int_equal(back.place.page, 17);
	assert_int_equal(back.epoch, 99);
	assert_int_equal(back.generation, 1234);
	assert_int_equal(back.image_bytes, IMAGE_BYTES);
	assert_int_equal(back.tokens, 64);
	assert_int_equal(back.depth, 5);
	assert_int_equal(back.incarnation, 7);
	assert_false(back.copy || back.ends);
	for (unsigned flags = 0; flags < 4; flags++) {
		record.copy = flags & 1;
		record.ends = flags & 2;
		seal_sample(&record);
		assert_int_equal(kvc_record_parse(bytes, RECORD_BYTES, &back), KVC_OK);
		assert_int_equal(back.copy, record.copy);
		assert_int_equal(back.ends, record.ends);
	}
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &record), KVC_OK);
	for (uint32_t i = KVC_RECORD_HEADER_BYTES + IMAGE_BYTES; i < RECORD_BYTES; i++)
		assert_int_equal(bytes[i], 0);
}

/* Every bit of the header, and every bit of the image's header that binds it. */
static void test_every_bit_counts(void **state)
{
	struct kvc_record record = sample(), back;

	(void)state;
	KVC_ROW("B4");
	seal_sample(&record);
	for (uint32_t bit = 0; bit < KVC_RECORD_HEADER_BYTES * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(kvc_record_parse(bytes, RECORD_BYTES, &back), KVC_OK);
		assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &record), KVC_CORRUPT);
		kvc_row.injected++;
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &record), KVC_OK);
	kvc_row_end();
}

/* Another image under a sound header. */
static void test_image_is_bound(void **state)
{
	struct kvc_record first = sample(), second = sample();
	uint8_t header[KVC_RECORD_HEADER_BYTES];

	(void)state;
	KVC_ROW("B6");
	seal_sample(&first);
	memcpy(header, bytes, sizeof header);
	for (uint32_t i = KVC_RECORD_HEADER_BYTES; i < RECORD_BYTES; i++)
		bytes[i] = (uint8_t)(i * 37 + 1);
	kvc_record_seal(&second, bytes);
	assert_true(kvc_record_binds(bytes));
	memcpy(bytes, header, sizeof header);
	kvc_row.injected++;
	assert_false(kvc_record_binds(bytes));
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &first), KVC_CORRUPT);
	kvc_row_end();
}

static void test_match_is_exact(void **state)
{
	struct kvc_record record = sample(), other;

	(void)state;
	seal_sample(&record);
	other = record;
	other.key.bytes[31] ^= 1;
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &other), KVC_CORRUPT);
	other = record;
	other.device[0] ^= 1;
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &other), KVC_CORRUPT);
	other = record;
	other.place.segment++;
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &other), KVC_CORRUPT);
	other = record;
	other.place.page++;
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &other), KVC_CORRUPT);
	other = record;
	other.epoch++;
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &other), KVC_CORRUPT);
	other = record;
	other.image_bytes--;
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &other), KVC_CORRUPT);
	assert_int_equal(kvc_record_match(bytes, KVC_RECORD_HEADER_BYTES, &record), KVC_CORRUPT);
}

static void test_bounds(void **state)
{
	struct kvc_record record = sample(), back;

	(void)state;
	seal_sample(&record);
	assert_int_equal(kvc_record_parse(bytes, RECORD_BYTES - 1, &back), KVC_CORRUPT);
	record.image_bytes = 1u << 29;
	record.tokens = 64;
	memset(bytes, 0, sizeof bytes);
	assert_int_equal(kvc_record_parse(bytes, RECORD_BYTES, &back), KVC_MISS);
}

/* --- what a scan accepts -------------------------------------------------------------------------- */

static void test_scan(void **state)
{
	struct kvc_record record = sample(), back;
	struct kvc_segment_header header = sample_segment();

	(void)state;
	seal_sample(&record);
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_OK);
	assert_int_equal(kvc_segment_accept(&header, 16, bytes, &back), KVC_CORRUPT); /* astray */
	header.number = 4;
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_CORRUPT);
	header = sample_segment();
	header.epoch = 100; /* what the segment held before */
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_MISS);
	header = sample_segment();
	header.instance[3] ^= 1; /* another directory's */
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_MISS);
	header = sample_segment();
	header.segment_bytes = 17 * 4096; /* behind the end */
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_MISS);
	header = sample_segment();
	bytes[KVC_RECORD_HEADER_BYTES + KVC_IMAGE_SUM_OFFSET] ^= 1;
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_CORRUPT);
	memset(bytes, 0, sizeof bytes);
	assert_int_equal(kvc_segment_accept(&header, 17, bytes, &back), KVC_MISS);
}

/* --- pages ---------------------------------------------------------------------------------------- */

static void test_segment_header(void **state)
{
	struct kvc_segment_header header = sample_segment(), back;

	(void)state;
	KVC_ROW("B4");
	kvc_segment_header_encode(&header, bytes);
	assert_int_equal(kvc_segment_header_decode(bytes, &back), KVC_OK);
	assert_memory_equal(back.instance, header.instance, sizeof back.instance);
	assert_int_equal(back.number, 3);
	assert_int_equal(back.epoch, 99);
	assert_int_equal(back.segment_bytes, SEGMENT_BYTES);
	for (uint32_t bit = 0; bit < KVC_PAGE_BYTES * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_segment_header_decode(bytes, &back), KVC_CORRUPT);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	kvc_row_end();
}

static struct kvc_super sample_super(uint64_t sequence)
{
	struct kvc_super super = {.sequence = sequence, .segment_bytes = SEGMENT_BYTES, .epoch_limit = 64};

	memset(super.instance, 0x55, sizeof super.instance);
	return super;
}

/* The newest valid slot is in force; every flipped bit of it makes the other one be. */
static void test_superblock(void **state)
{
	static uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES];
	struct kvc_super older = sample_super(6), newer = sample_super(7), back;

	(void)state;
	KVC_ROW("A4 B4");
	assert_int_not_equal(kvc_super_slot(6), kvc_super_slot(7));
	kvc_super_encode(&older, slots + kvc_super_slot(6) * KVC_PAGE_BYTES);
	kvc_super_encode(&newer, slots + kvc_super_slot(7) * KVC_PAGE_BYTES);
	assert_int_equal(kvc_super_decode(slots, &back), KVC_OK);
	assert_int_equal(back.sequence, 7);
	for (uint32_t bit = 0; bit < KVC_PAGE_BYTES * 8; bit++) {
		uint8_t *byte = slots + kvc_super_slot(7) * KVC_PAGE_BYTES + bit / 8;

		*byte ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_super_decode(slots, &back), KVC_OK);
		assert_int_equal(back.sequence, 6);
		kvc_row.injected++;
		*byte ^= (uint8_t)(1u << bit % 8);
	}
	memset(slots, 0, sizeof slots);
	assert_int_equal(kvc_super_decode(slots, &back), KVC_CORRUPT);
	kvc_row_end();
}

/* A newer format is told from a damaged page, in either slot. */
static void test_newer_superblock(void **state)
{
	static uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES];
	struct kvc_super super = sample_super(2), back;

	(void)state;
	KVC_ROW("A13");
	for (uint32_t slot = 0; slot < KVC_SUPER_SLOTS; slot++) {
		kvc_super_encode(&super, slots);
		kvc_super_encode(&super, slots + KVC_PAGE_BYTES);
		kvc_test_super_version(slots + slot * KVC_PAGE_BYTES, 4);
		assert_int_equal(kvc_super_decode(slots, &back), KVC_VERSION);
		kvc_row.injected++;
	}
	kvc_row_end();
}

static void test_implausible_superblock(void **state)
{
	static uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES];
	struct kvc_super super = sample_super(2), back;

	(void)state;
	super.segment_bytes = 0;
	kvc_super_encode(&super, slots);
	assert_int_equal(kvc_super_decode(slots, &back), KVC_CORRUPT);
	super = sample_super(2);
	super.epoch_limit = 0;
	kvc_super_encode(&super, slots);
	assert_int_equal(kvc_super_decode(slots, &back), KVC_CORRUPT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_sizes),
	        cmocka_unit_test(test_round_trip),
	        cmocka_unit_test(test_every_bit_counts),
	        cmocka_unit_test(test_image_is_bound),
	        cmocka_unit_test(test_match_is_exact),
	        cmocka_unit_test(test_bounds),
	        cmocka_unit_test(test_scan),
	        cmocka_unit_test(test_segment_header),
	        cmocka_unit_test(test_superblock),
	        cmocka_unit_test(test_newer_superblock),
	        cmocka_unit_test(test_implausible_superblock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
