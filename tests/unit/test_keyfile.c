/* The key's file: what is a key, what is refused, and with which words. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/tier/keyfile.h"
#include "tests/support/temp_dir.h"

static char directory[KVC_TEMP_DIR_BYTES];
static char path[512];
static char detail[512];
static struct kvc_secret key;

static int setup(void **state)
{
	(void)state;
	kvc_test_temp_dir(directory);
	snprintf(path, sizeof path, "%s/key", directory);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_test_temp_dir_remove(directory);
	return 0;
}

static void file_make(const void *bytes, size_t length, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, bytes, length), length);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static kvc_status read_it(const char *where)
{
	detail[0] = '\0';
	memset(&key, 0, sizeof key);
	return kvc_keyfile_read(where, &key, detail, sizeof detail);
}

static void test_forms(void **state)
{
	static const char hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\r\n";
	uint8_t raw[32];

	(void)state;
	for (unsigned i = 0; i < sizeof raw; i++)
		raw[i] = (uint8_t)i;
	file_make(raw, sizeof raw, 0600);
	assert_int_equal(read_it(path), KVC_OK);
	assert_memory_equal(key.bytes, raw, sizeof raw);
	for (size_t end = 0; end <= 2; end++) {
		char text[80];
		size_t length = (size_t)snprintf(text, sizeof text, "%.64s%s", hex, hex + 66 - end);

		file_make(text, length, 0400);
		assert_int_equal(read_it(path), KVC_OK);
		assert_memory_equal(key.bytes, raw, sizeof raw);
	}
}

static void test_not_a_key(void **state)
{
	static const struct {
		const char *text;
		size_t length;
	} bad[] = {
	        {"", 0},
	        {"0123456789abcdef0123456789abcde", 31},
	        {"0123456789abcdef0123456789abcdef\n", 33},
	        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1", 63},
	        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1g", 64},
	        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00", 66},
	        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\n", 66},
	        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\r\n\r\n\r\n", 70},
	};

	(void)state;
	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		file_make(bad[i].text, bad[i].length, 0600);
		assert_int_equal(read_it(path), KVC_INVALID);
		assert_non_null(strstr(detail, path));
		assert_non_null(strstr(detail, "64 hex digits"));
	}
}

static void test_open_to_others(void **state)
{
	static const mode_t modes[] = {0640, 0604, 0620, 0601};
	uint8_t raw[32] = {1};

	(void)state;
	for (unsigned i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		file_make(raw, sizeof raw, modes[i]);
		assert_int_equal(read_it(path), KVC_ACCESS);
		assert_non_null(strstr(detail, "chmod go="));
	}
}

static void test_no_file(void **state)
{
	(void)state;
	assert_int_equal(read_it(path), KVC_MISS);
	assert_non_null(strstr(detail, "No such file"));
	assert_int_equal(read_it(directory), KVC_ACCESS);
	assert_non_null(strstr(detail, "regular file"));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(read_it(path), KVC_ACCESS);
}

/* systemd's files may be the group's by an access list. */
static void test_credential(void **state)
{
	char name[1024];
	uint8_t raw[32] = {3};

	(void)state;
	file_make(raw, sizeof raw, 0440);
	unsetenv("CREDENTIALS_DIRECTORY");
	assert_int_equal(read_it("credential:key"), KVC_MISS);
	assert_non_null(strstr(detail, "LoadCredential"));
	setenv("CREDENTIALS_DIRECTORY", directory, 1);
	assert_int_equal(read_it("credential:key"), KVC_OK);
	assert_int_equal(key.bytes[0], 3);
	assert_int_equal(read_it("credential:other"), KVC_MISS);
	file_make(raw, sizeof raw, 0444);
	assert_int_equal(read_it("credential:key"), KVC_ACCESS);
	snprintf(name, sizeof name, "credential:%0900d", 0);
	assert_int_not_equal(read_it(name), KVC_OK);
	unsetenv("CREDENTIALS_DIRECTORY");
}

#define KEYFILE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        KEYFILE_TEST(test_forms),   KEYFILE_TEST(test_not_a_key),  KEYFILE_TEST(test_open_to_others),
	        KEYFILE_TEST(test_no_file), KEYFILE_TEST(test_credential),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
