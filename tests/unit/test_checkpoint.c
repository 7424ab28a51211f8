/* The head of a checkpoint as bytes: what is put in comes out, every bit counts, and nothing impossible is
 * accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/tier/checkpoint.h"

enum { BYTES = KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES };

static uint8_t bytes[BYTES];

static struct kvc_checkpoint sample(uint32_t count)
{
	struct kvc_checkpoint checkpoint = {
	        .sequence = 7, .segment_bytes = 1 << 20, .generation = 99, .count = count};

	memset(checkpoint.instance, 0x44, sizeof checkpoint.instance);
	return checkpoint;
}

static void seal(uint32_t count)
{
	struct kvc_checkpoint checkpoint = sample(count);

	memset(bytes, 0xA5, sizeof bytes);
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_checkpoint_section section = {
		        .epoch = 1000 + i,
		        .number = i,
		        .page = KVC_CHECKPOINT_HEAD_PAGES + 3 * i,
		        .pages = 3,
		};

		kvc_checkpoint_put(bytes, i, &section);
	}
	kvc_checkpoint_seal(bytes, &checkpoint);
}

static void test_round_trip(void **state)
{
	static const uint32_t counts[] = {0, 1, 500, KVC_CHECKPOINT_SECTIONS_MAX};
	struct kvc_checkpoint back;

	(void)state;
	for (unsigned c = 0; c < sizeof counts / sizeof counts[0]; c++) {
		seal(counts[c]);
		assert_int_equal(kvc_checkpoint_open(bytes, &back), KVC_OK);
		assert_int_equal(back.count, counts[c]);
		assert_int_equal(back.sequence, 7);
		assert_int_equal(back.segment_bytes, 1 << 20);
		assert_int_equal(back.generation, 99);
		assert_int_equal(back.instance[3], 0x44);
		for (uint32_t i = 0; i < counts[c]; i++) {
			struct kvc_checkpoint_section section;

			kvc_checkpoint_get(bytes, i, &section);
			assert_int_equal(section.epoch, 1000 + i);
			assert_int_equal(section.number, i);
			assert_int_equal(section.page, KVC_CHECKPOINT_HEAD_PAGES + 3 * i);
			assert_int_equal(section.pages, 3);
		}
	}
}

/* All of the first two pages, then one of each byte. */
static void test_every_bit_counts(void **state)
{
	struct kvc_checkpoint back;

	(void)state;
	seal(300);
	for (uint32_t bit = 0; bit < 8u * BYTES; bit += bit < 8u * 8192 ? 1 : 8 * 97 + 1) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(kvc_checkpoint_open(bytes, &back), KVC_OK);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(kvc_checkpoint_open(bytes, &back), KVC_OK);
	memset(bytes, 0, sizeof bytes);
	assert_int_equal(kvc_checkpoint_open(bytes, &back), KVC_MISS);
}

/* Sound checksums over tables that cannot be. */
static void test_impossible(void **state)
{
	static const struct kvc_checkpoint_section second[] = {
	        {.page = KVC_CHECKPOINT_HEAD_PAGES + 2, .pages = 3}, /* overlaps the first */
	        {.page = 3, .pages = 3},                             /* in the head */
	        {.page = 100, .pages = 0},
	        {.page = 100, .pages = 256}, /* longer than a segment */
	        {.page = UINT32_MAX, .pages = 3},
	};

	(void)state;
	for (unsigned i = 0; i < sizeof second / sizeof second[0]; i++) {
		struct kvc_checkpoint checkpoint = sample(2), back;

		seal(2);
		kvc_checkpoint_put(bytes, 1, &second[i]);
		kvc_checkpoint_seal(bytes, &checkpoint);
		assert_int_equal(kvc_checkpoint_open(bytes, &back), KVC_CORRUPT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_round_trip),
	        cmocka_unit_test(test_every_bit_counts),
	        cmocka_unit_test(test_impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
