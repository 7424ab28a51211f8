/* An encrypted record: nobody's plain text, whole or nothing, in its place or nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/tier/cipher.h"
#include "daemon/tier/segment.h"
#include "kernels/image.h"
#include "tests/support/prng.h"
#include "tests/support/row.h"

enum { IMAGE_BYTES = 9000, RECORD_BYTES = 12288, IDENTITIES = 8 };

static const struct kvc_secret tenant_key = {{9, 8, 7}};
static struct kvc_cipher *cipher;
static uint8_t image[IMAGE_BYTES];
static _Alignas(4096) uint8_t bytes[RECORD_BYTES], plain[RECORD_BYTES];

static struct kvc_record sample(void)
{
	struct kvc_record record = {
	        .place = {.segment = 3, .page = 17},
	        .epoch = 99,
	        .generation = 1234,
	        .image_bytes = IMAGE_BYTES,
	        .incarnation = 5,
	        .tokens = 64,
	        .depth = 5,
	};

	memset(record.key.bytes, 0x11, sizeof record.key.bytes);
	memset(record.tenant, 0x33, sizeof record.tenant);
	memset(record.device, 0x44, sizeof record.device);
	return record;
}

static int setup(void **state)
{
	struct prng prng = {.state = 5};
	struct kvc_record record = sample();

	(void)state;
	kvc_key_init();
	for (uint32_t i = 0; i < IMAGE_BYTES; i++)
		image[i] = (uint8_t)prng_next(&prng);
	memset(plain, 0x5A, sizeof plain);
	memcpy(plain + KVC_RECORD_HEADER_BYTES, image, IMAGE_BYTES);
	kvc_record_seal(&record, plain);
	assert_int_equal(kvc_cipher_open(&cipher), KVC_OK);
	memset(bytes, 0x5A, sizeof bytes);
	assert_int_equal(kvc_record_encrypt(cipher, &tenant_key, &record, image, bytes), KVC_OK);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_cipher_close(cipher);
	kvc_row_end();
	return 0;
}

/* Decrypt a copy of what stands in `bytes`. */
static kvc_status decrypt(const struct kvc_secret *key)
{
	static _Alignas(4096) uint8_t copy[RECORD_BYTES];
	kvc_status status;

	memcpy(copy, bytes, sizeof copy);
	status = kvc_record_decrypt(cipher, key, copy, sizeof copy);
	if (status == KVC_OK)
		assert_memory_equal(copy, plain, sizeof copy);
	return status;
}

static void test_round_trip(void **state)
{
	struct kvc_segment_header segment = {.number = 3, .epoch = 99, .segment_bytes = 1 << 20};
	struct kvc_record record = sample(), back;

	(void)state;
	memset(segment.instance, 0x44, sizeof segment.instance);
	assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &record), KVC_OK);
	assert_int_equal(kvc_segment_accept(&segment, 17, bytes, &back), KVC_OK);
	assert_true(back.encrypted);
	assert_int_equal(back.incarnation, 5);
	for (uint32_t i = KVC_RECORD_HEADER_BYTES + IMAGE_BYTES; i < RECORD_BYTES; i++)
		assert_int_equal(bytes[i], 0);
	assert_int_equal(decrypt(&tenant_key), KVC_OK);
	assert_int_equal(kvc_record_decrypt(cipher, &tenant_key, bytes, RECORD_BYTES - 4096), KVC_CORRUPT);
	assert_int_equal(decrypt(&tenant_key), KVC_OK); /* nothing was touched */
	assert_int_equal(kvc_record_decrypt(cipher, &tenant_key, bytes, RECORD_BYTES), KVC_OK);
	assert_int_equal(kvc_record_decrypt(cipher, &tenant_key, bytes, RECORD_BYTES),
	                 KVC_CORRUPT); /* it is plain now */
}

/* No 8 bytes of the image stand anywhere in the record, and no two encryptions share any. */
static void test_nothing_shows(void **state)
{
	static _Alignas(4096) uint8_t again[RECORD_BYTES];
	struct kvc_record record = sample();

	(void)state;
	assert_int_equal(kvc_record_encrypt(cipher, &tenant_key, &record, image, again), KVC_OK);
	for (uint32_t i = 0; i + 8 <= IMAGE_BYTES; i += 8) {
		assert_null(memmem(bytes, RECORD_BYTES, image + i, 8));
		assert_null(memmem(bytes, RECORD_BYTES, again + KVC_RECORD_HEADER_BYTES + i, 8));
	}
}

/* Every bit of the header, every 13th of the image. */
static void test_every_bit_counts(void **state)
{
	struct kvc_record record = sample();

	(void)state;
	KVC_ROW("B4");
	for (uint32_t bit = 0; bit < KVC_RECORD_HEADER_BYTES * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &record), KVC_CORRUPT);
		assert_int_equal(decrypt(&tenant_key), KVC_CORRUPT);
		kvc_row.injected++;
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (uint32_t bit = KVC_RECORD_HEADER_BYTES * 8; bit < 8 * (KVC_RECORD_HEADER_BYTES + IMAGE_BYTES);
	     bit += 13) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(decrypt(&tenant_key), KVC_CORRUPT);
		kvc_row.injected++;
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(decrypt(&tenant_key), KVC_OK);
}

static void test_other_keys(void **state)
{
	struct kvc_secret other = tenant_key;

	(void)state;
	for (uint32_t bit = 0; bit < 8 * sizeof other.bytes; bit++) {
		other.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(decrypt(&other), KVC_CORRUPT);
		other.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* The header of one that differs in a single field, with the envelope of this one and a right checksum: the
 * same image under another name, in another place or life of it. */
static void test_identity_is_authentic(void **state)
{
	struct kvc_record others[IDENTITIES];
	struct kvc_envelope envelope;

	(void)state;
	KVC_ROW("B5");
	kvc_record_envelope(bytes, &envelope);
	for (unsigned i = 0; i < IDENTITIES; i++)
		others[i] = sample();
	others[0].place.page++;
	others[1].place.segment++;
	others[2].epoch++;
	others[3].generation++;
	others[4].key.bytes[0]++;
	others[5].tenant[0]++;
	others[6].incarnation++;
	others[7].device[0]++;
	for (unsigned i = 0; i < IDENTITIES; i++) {
		kvc_record_seal_encrypted(&others[i], &envelope, bytes);
		assert_int_equal(kvc_record_match(bytes, RECORD_BYTES, &others[i]), KVC_OK);
		assert_int_equal(decrypt(&tenant_key), KVC_CORRUPT);
		kvc_row.injected++;
	}
}

#define CIPHER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CIPHER_TEST(test_round_trip),
	        CIPHER_TEST(test_nothing_shows),
	        CIPHER_TEST(test_every_bit_counts),
	        CIPHER_TEST(test_other_keys),
	        CIPHER_TEST(test_identity_is_authentic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
