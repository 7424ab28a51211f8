/* The summary of a segment as bytes: what is put in comes out, every bit counts, and nothing impossible is
 * accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/tier/summary.h"
#include "tests/support/prng.h"

enum { PAGES = 16, SEGMENT_BYTES = 1 << 20, IMAGE_BYTES = 3000 };

static uint8_t bytes[PAGES * KVC_PAGE_BYTES];

static struct kvc_segment_header sample_segment(void)
{
	struct kvc_segment_header header = {.number = 3, .epoch = 99, .segment_bytes = SEGMENT_BYTES};

	memset(header.instance, 0x44, sizeof header.instance);
	return header;
}

static struct kvc_record sample_record(uint32_t i)
{
	struct kvc_record record = {
	        .place = {.segment = 3, .page = 1 + i},
	        .epoch = 99,
	        .generation = 1000 + i,
	        .image_bytes = IMAGE_BYTES,
	        .tokens = 1 + i,
	        .depth = 7 * i,
	        .copy = i % 2,
	        .ends = i % 3 == 1,
	};

	memset(record.key.bytes, (int)i + 1, sizeof record.key.bytes);
	memset(record.parent.bytes, (int)i, sizeof record.parent.bytes);
	memset(record.tenant, 0x33, sizeof record.tenant);
	record.incarnation = 100000 + i;
	memset(record.device, 0x44, sizeof record.device);
	return record;
}

static void seal(uint32_t count, uint32_t end_page)
{
	struct kvc_segment_header header = sample_segment();

	memset(bytes, 0x5A, sizeof bytes);
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_record record = sample_record(i);

		kvc_summary_put(bytes, i, &record);
	}
	kvc_summary_seal(bytes, &header, count, end_page, 4321);
}

static kvc_status open_it(uint32_t pages)
{
	struct kvc_segment_header header = sample_segment();
	struct kvc_summary summary;

	return kvc_summary_open(&header, bytes, pages, &summary);
}

static void test_round_trip(void **state)
{
	static const uint32_t counts[] = {0, 1, 38, 39, 100, 254};
	struct kvc_segment_header header = sample_segment();

	(void)state;
	for (unsigned c = 0; c < sizeof counts / sizeof counts[0]; c++) {
		uint32_t count = counts[c], pages = kvc_summary_pages(count), probed;
		struct kvc_summary summary;

		seal(count, 1 + count);
		assert_int_equal(
		        kvc_summary_probe(&header, bytes + (size_t)(pages - 1) * KVC_PAGE_BYTES, &probed),
		        KVC_OK);
		assert_int_equal(probed, pages);
		assert_int_equal(kvc_summary_open(&header, bytes, pages, &summary), KVC_OK);
		assert_int_equal(summary.count, count);
		assert_int_equal(summary.end_page, 1 + count);
		assert_int_equal(summary.generation, 4321);
		for (uint32_t i = 0; i < count; i++) {
			struct kvc_record record = sample_record(i), back;

			kvc_summary_get(&summary, i, &back);
			assert_memory_equal(&back.key, &record.key, sizeof back.key);
			assert_memory_equal(&back.parent, &record.parent, sizeof back.parent);
			assert_memory_equal(back.tenant, record.tenant, sizeof back.tenant);
			assert_memory_equal(back.device, record.device, sizeof back.device);
			assert_int_equal(back.place.segment, 3);
			assert_int_equal(back.place.page, record.place.page);
			assert_int_equal(back.epoch, 99);
			assert_int_equal(back.generation, record.generation);
			assert_int_equal(back.image_bytes, IMAGE_BYTES);
			assert_int_equal(back.tokens, record.tokens);
			assert_int_equal(back.depth, record.depth);
			assert_int_equal(back.copy, record.copy);
			assert_int_equal(back.ends, record.ends);
			assert_int_equal(back.incarnation, record.incarnation);
		}
	}
}

static void test_sizes(void **state)
{
	(void)state;
	assert_int_equal(kvc_summary_pages(0), 1);
	for (uint32_t pages = 1; pages < 900; pages++) {
		uint32_t capacity = kvc_summary_capacity(pages);

		assert_int_equal(kvc_summary_pages(capacity), pages);
		assert_int_equal(kvc_summary_pages(capacity + 1), pages + 1);
	}
}

static void test_every_bit_counts(void **state)
{
	(void)state;
	seal(50, 51);
	for (uint32_t bit = 0; bit < 2 * KVC_PAGE_BYTES * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(open_it(2), KVC_OK);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(open_it(2), KVC_OK);
}

/* Every page of it is lost in turn, or all but the last. */
static void test_torn(void **state)
{
	uint32_t pages = kvc_summary_pages(200);

	(void)state;
	for (uint32_t page = 0; page < pages; page++) {
		seal(200, 201);
		memset(bytes + (size_t)page * KVC_PAGE_BYTES, 0, KVC_PAGE_BYTES);
		assert_int_equal(open_it(pages), KVC_CORRUPT);
	}
	seal(200, 201);
	memset(bytes, 0, (size_t)(pages - 1) * KVC_PAGE_BYTES);
	assert_int_equal(open_it(pages), KVC_CORRUPT);
}

static void test_of_another_segment(void **state)
{
	struct kvc_segment_header others[4];
	struct kvc_summary summary;
	uint32_t pages;

	(void)state;
	seal(10, 11);
	for (unsigned i = 0; i < 4; i++)
		others[i] = sample_segment();
	others[0].epoch++;
	others[1].number++;
	others[2].instance[5] ^= 1;
	others[3].segment_bytes *= 2;
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(kvc_summary_probe(&others[i], bytes, &pages), KVC_MISS);
		assert_int_equal(kvc_summary_open(&others[i], bytes, 1, &summary), KVC_MISS);
	}
}

/* Sound checksums over records that cannot be. */
static void test_impossible(void **state)
{
	struct kvc_segment_header header = sample_segment();
	const struct {
		uint32_t page;
		uint64_t image_bytes;
		uint32_t tokens;
		uint32_t end_page;
	} rows[] = {
	        {1, IMAGE_BYTES, 1, 101},          /* overlaps the first */
	        {0, IMAGE_BYTES, 1, 101},          /* on the header */
	        {UINT32_MAX, IMAGE_BYTES, 1, 101}, /* outside */
	        {100, IMAGE_BYTES, 1, 100},        /* beyond the end that is told */
	        {50, 1u << 30, 1, 101},            /* too long */
	        {50, 1, 1, 101},                   /* too short */
	        {50, IMAGE_BYTES, 0, 101},
	        {50, IMAGE_BYTES, 4097, 101},
	        {50, IMAGE_BYTES, 1, 257}, /* an end outside */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct kvc_record first = sample_record(0), second = sample_record(1);

		second.place.page = rows[i].page;
		second.image_bytes = rows[i].image_bytes;
		second.tokens = rows[i].tokens;
		kvc_summary_put(bytes, 0, &first);
		kvc_summary_put(bytes, 1, &second);
		kvc_summary_seal(bytes, &header, 2, rows[i].end_page, 1);
		assert_int_equal(open_it(1), KVC_CORRUPT);
	}
}

static void test_gaps_are_fine(void **state)
{
	struct kvc_segment_header header = sample_segment();
	struct kvc_record first = sample_record(0), second = sample_record(1);

	(void)state;
	second.place.page = 200;
	kvc_summary_put(bytes, 0, &first);
	kvc_summary_put(bytes, 1, &second);
	kvc_summary_seal(bytes, &header, 2, 210, 1);
	assert_int_equal(open_it(1), KVC_OK);
}

static void test_noise(void **state)
{
	struct prng prng = {.state = prng_seed("test_summary")};
	struct kvc_segment_header header = sample_segment();
	uint32_t pages;

	(void)state;
	for (uint32_t round = 0; round < 200; round++) {
		for (uint32_t i = 0; i < KVC_PAGE_BYTES; i++)
			bytes[i] = (uint8_t)prng_next(&prng);
		assert_int_equal(kvc_summary_probe(&header, bytes, &pages), KVC_MISS);
		assert_int_not_equal(open_it(1), KVC_OK);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_round_trip),         cmocka_unit_test(test_sizes),
	        cmocka_unit_test(test_every_bit_counts),   cmocka_unit_test(test_torn),
	        cmocka_unit_test(test_of_another_segment), cmocka_unit_test(test_impossible),
	        cmocka_unit_test(test_gaps_are_fine),      cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
