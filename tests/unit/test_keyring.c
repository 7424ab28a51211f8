/* The keyring as bytes and as a table: what is put in comes out, every bit counts, and a data key opens only
 * as what it was wrapped for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/tier/keyring.h"
#include "tests/support/prng.h"

enum { TENANTS = 100, PAGES = 4 };

static uint8_t bytes[PAGES * KVC_PAGE_BYTES];
static struct kvc_cipher *cipher;
static struct kvc_secret under;
static struct kvc_keyring ring;

static void tenant_of(uint32_t i, uint8_t tenant[16])
{
	struct prng prng = {.state = i * 77u + 1};

	for (unsigned k = 0; k < 16; k++)
		tenant[k] = (uint8_t)prng_next(&prng);
}

static int setup(void **state)
{
	static const struct kvc_secret disk_key = {{1, 2, 3}};
	uint8_t tenant[16];

	(void)state;
	kvc_key_init();
	assert_int_equal(kvc_cipher_open(&cipher), KVC_OK);
	memset(&ring, 0, sizeof ring);
	memset(ring.instance, 0x44, sizeof ring.instance);
	ring.sequence = 9;
	kvc_keyring_under(&disk_key, ring.instance, &under);
	assert_int_equal(kvc_keyring_lock(&ring, cipher, &under, 77), KVC_OK);
	for (uint32_t i = 0; i < TENANTS; i++) {
		tenant_of(i, tenant);
		if (i % 3)
			assert_int_equal(kvc_keyring_drop(&ring, tenant, i, 1000 + i), KVC_OK);
		if (i % 2)
			assert_int_equal(kvc_keyring_make_key(&ring, cipher, &under, tenant), KVC_OK);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_keyring_free(&ring);
	kvc_cipher_close(cipher);
	return 0;
}

static uint32_t encode(void)
{
	uint32_t pages = kvc_keyring_pages(ring.count);

	assert_true(pages <= PAGES);
	memset(bytes, 0xA5, sizeof bytes);
	kvc_keyring_encode(&ring, bytes);
	return pages;
}

static void test_round_trip(void **state)
{
	uint32_t pages = encode();
	struct kvc_keyring back;
	struct kvc_secret one, two;

	(void)state;
	assert_int_equal(kvc_keyring_decode(bytes, pages, &back), KVC_OK);
	assert_int_equal(back.count, ring.count);
	assert_int_equal(back.sequence, 9);
	assert_true(back.encrypted);
	assert_int_equal(back.plain_below, 77);
	assert_int_equal(kvc_keyring_try(&back, cipher, &under), KVC_OK);
	for (uint32_t i = 0; i < TENANTS; i++) {
		const struct kvc_keyring_row *row;
		uint8_t tenant[16];

		tenant_of(i, tenant);
		assert_int_equal(kvc_keyring_incarnation(&back, tenant), i % 3 ? i : 0);
		row = kvc_keyring_find(&back, tenant);
		if (i % 3 == 0 && i % 2 == 0) {
			assert_null(row);
			continue;
		}
		assert_int_equal(row->has_key, i % 2);
		assert_int_equal(row->drop, i % 3 ? 1000 + i : 0);
		if (i % 2 == 0) {
			assert_int_equal(kvc_keyring_key(back.instance, row, cipher, &under, &one), KVC_MISS);
			continue;
		}
		assert_int_equal(kvc_keyring_key(back.instance, row, cipher, &under, &one), KVC_OK);
		assert_int_equal(
		        kvc_keyring_key(ring.instance, kvc_keyring_find(&ring, tenant), cipher, &under, &two),
		        KVC_OK);
		assert_memory_equal(&one, &two, sizeof one);
	}
	kvc_keyring_free(&back);
}

static void test_every_bit_counts(void **state)
{
	uint32_t pages = encode();
	struct kvc_keyring back;

	(void)state;
	for (uint32_t bit = 0; bit < 8 * pages * KVC_PAGE_BYTES; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_keyring_decode(bytes, pages, &back), KVC_CORRUPT);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(kvc_keyring_decode(bytes, pages, &back), KVC_OK);
	kvc_keyring_free(&back);
}

/* Any page is missing or another one's; the file is shorter than it says. */
static void test_torn(void **state)
{
	uint32_t pages = encode();
	static uint8_t torn[PAGES * KVC_PAGE_BYTES];
	struct kvc_keyring back;

	(void)state;
	assert_true(pages > 1);
	for (uint32_t page = 0; page < pages; page++) {
		memcpy(torn, bytes, sizeof torn);
		memset(torn + page * KVC_PAGE_BYTES, 0, KVC_PAGE_BYTES);
		assert_int_equal(kvc_keyring_decode(torn, pages, &back), KVC_CORRUPT);
		assert_int_equal(kvc_keyring_decode(bytes, page, &back), KVC_CORRUPT);
	}
}

static void test_dropped_key_is_gone(void **state)
{
	const struct kvc_keyring_row *row;
	uint8_t wrapped[KVC_WRAPPED_BYTES], tenant[16];
	uint32_t pages;

	(void)state;
	tenant_of(7, tenant);
	row = kvc_keyring_find(&ring, tenant);
	memcpy(wrapped, row->wrapped, sizeof wrapped);
	pages = encode();
	assert_non_null(memmem(bytes, pages * KVC_PAGE_BYTES, wrapped, sizeof wrapped));
	assert_int_equal(kvc_keyring_drop(&ring, tenant, 8, 1000 + 8), KVC_OK);
	pages = encode();
	assert_null(memmem(bytes, pages * KVC_PAGE_BYTES, wrapped, sizeof wrapped));
	assert_int_equal(kvc_keyring_incarnation(&ring, tenant), 8);
	assert_int_equal(kvc_keyring_make_key(&ring, cipher, &under, tenant), KVC_OK);
	assert_memory_not_equal(kvc_keyring_find(&ring, tenant)->wrapped, wrapped, sizeof wrapped);
}

/* Another disk key, instance, tenant or incarnation, or any bit of it flipped. */
static void test_key_is_bound(void **state)
{
	struct kvc_secret other = under, key;
	struct kvc_keyring_row row;
	uint8_t tenant[16], instance[KVC_INSTANCE_BYTES] = {0};

	(void)state;
	tenant_of(7, tenant);
	row = *kvc_keyring_find(&ring, tenant);
	other.bytes[31] ^= 1;
	assert_int_equal(kvc_keyring_try(&ring, cipher, &other), KVC_ACCESS);
	ring.plain_below++;
	assert_int_equal(kvc_keyring_try(&ring, cipher, &under), KVC_ACCESS);
	ring.plain_below--;
	assert_int_equal(kvc_keyring_try(&ring, cipher, &under), KVC_OK);
	assert_int_equal(kvc_keyring_key(ring.instance, &row, cipher, &other, &key), KVC_CORRUPT);
	assert_int_equal(kvc_keyring_key(instance, &row, cipher, &under, &key), KVC_CORRUPT);
	row.tenant[0] ^= 1;
	assert_int_equal(kvc_keyring_key(ring.instance, &row, cipher, &under, &key), KVC_CORRUPT);
	row.tenant[0] ^= 1;
	row.incarnation++;
	assert_int_equal(kvc_keyring_key(ring.instance, &row, cipher, &under, &key), KVC_CORRUPT);
	row.incarnation--;
	for (uint32_t bit = 0; bit < 8 * KVC_WRAPPED_BYTES; bit++) {
		row.wrapped[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_keyring_key(ring.instance, &row, cipher, &under, &key), KVC_CORRUPT);
		row.wrapped[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(kvc_keyring_key(ring.instance, &row, cipher, &under, &key), KVC_OK);
}

static void test_too_many(void **state)
{
	uint8_t tenant[16];
	struct kvc_keyring back;
	uint8_t *all;

	(void)state;
	for (uint32_t i = ring.count; i < KVC_KEYRING_TENANTS_MAX; i++) {
		memset(tenant, 0xFF, sizeof tenant);
		memcpy(tenant + 8, &i, sizeof i);
		assert_int_equal(kvc_keyring_drop(&ring, tenant, 1, 1000 + 1), KVC_OK);
	}
	memset(tenant, 0xFE, sizeof tenant);
	assert_int_equal(kvc_keyring_drop(&ring, tenant, 1, 1000 + 1), KVC_LIMIT);
	assert_int_equal(kvc_keyring_make_key(&ring, cipher, &under, tenant), KVC_LIMIT);
	all = calloc(kvc_keyring_pages(ring.count), KVC_PAGE_BYTES);
	kvc_keyring_encode(&ring, all);
	assert_int_equal(kvc_keyring_decode(all, kvc_keyring_pages(ring.count), &back), KVC_OK);
	assert_int_equal(back.count, KVC_KEYRING_TENANTS_MAX);
	kvc_keyring_free(&back);
	free(all);
}

static void test_no_memory(void **state)
{
	uint32_t pages = encode();
	struct kvc_keyring back;

	(void)state;
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(kvc_keyring_decode(bytes, pages, &back), KVC_NO_MEMORY);
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(kvc_keyring_copy(&ring, &back), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_keyring_copy(&ring, &back), KVC_OK);
	assert_int_equal(back.count, ring.count);
	kvc_keyring_free(&back);
}

#define KEYRING_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        KEYRING_TEST(test_round_trip),   KEYRING_TEST(test_every_bit_counts),
	        KEYRING_TEST(test_torn),         KEYRING_TEST(test_dropped_key_is_gone),
	        KEYRING_TEST(test_key_is_bound), KEYRING_TEST(test_too_many),
	        KEYRING_TEST(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
