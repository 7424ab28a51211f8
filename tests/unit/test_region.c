/* Client memory (fault rows E1, E2, E4): what is mapped, what is refused, and when it is unmapped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/mem/region.h"

enum { BYTES = 65536 };

static int memfd(unsigned flags, off_t bytes, int seals)
{
	int fd = memfd_create("region", MFD_CLOEXEC | flags);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	if (seals)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int good_memfd(void)
{
	return memfd(MFD_ALLOW_SEALING, BYTES, F_SEAL_SHRINK);
}

static void refuse(int fd, uint64_t bytes, const char *part)
{
	struct kvc_region *region = NULL;
	const char *why = "";

	assert_true(fd >= 0);
	assert_int_equal(kvc_region_open(fd, bytes, &region, &why), KVC_INVALID);
	if (!strstr(why, part))
		print_error("'%s' lacks '%s'\n", why, part);
	assert_non_null(strstr(why, part));
	assert_null(region);
	close(fd);
}

static int unsealed_file(void)
{
	const char *folder = getenv("TMPDIR");
	char path[256];
	int fd;

	snprintf(path, sizeof path, "%s/kvregion-XXXXXX", folder ? folder : "/tmp");
	fd = mkstemp(path);
	unlink(path);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	return fd;
}

static int end_of(int pair[2])
{
	close(pair[1]);
	return pair[0];
}

static void test_e1_not_a_memfd(void **state)
{
	int pair[2];

	(void)state;
	refuse(unsealed_file(), 4096, "not a memfd");
	refuse(open("/dev/zero", O_RDWR | O_CLOEXEC), 4096, "not a memfd");
	refuse(open("/", O_RDONLY | O_CLOEXEC), 4096, "not a memfd");
	refuse(open("/dev/null", O_PATH | O_CLOEXEC), 4096, "not a memfd");
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	refuse(end_of(pair), 4096, "not a memfd");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	refuse(end_of(pair), 4096, "not a memfd");
}

static void test_e1_wrong_seals(void **state)
{
	(void)state;
	refuse(memfd(0, BYTES, 0), 4096, "not sealed against shrinking");
	refuse(memfd(MFD_ALLOW_SEALING, BYTES, 0), 4096, "not sealed against shrinking");
	refuse(memfd(MFD_ALLOW_SEALING, BYTES, F_SEAL_GROW | F_SEAL_SEAL), 4096,
	       "not sealed against shrinking");
	refuse(memfd(MFD_ALLOW_SEALING, BYTES, F_SEAL_SHRINK | F_SEAL_WRITE), 4096, "against writing");
	refuse(memfd(MFD_ALLOW_SEALING, BYTES, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE), 4096, "against writing");
}

static void test_e1_read_only_descriptor(void **state)
{
	char path[64];
	int fd = good_memfd();

	(void)state;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	refuse(open(path, O_RDONLY | O_CLOEXEC), 4096, "reading and writing");
	refuse(open(path, O_WRONLY | O_CLOEXEC), 4096, "reading and writing");
	close(fd);
}

static void test_e1_huge_pages_of_hugetlbfs(void **state)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);

	(void)state;
	if (fd < 0) {
		print_message("this kernel has no MFD_HUGETLB\n");
		skip();
	}
	assert_int_equal(ftruncate(fd, 2 << 20), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	refuse(fd, 4096, "hugetlbfs");
}

static void test_e4_size(void **state)
{
	(void)state;
	refuse(good_memfd(), 0, "0");
	refuse(good_memfd(), BYTES + 1, "smaller");
	refuse(good_memfd(), INT64_MAX, "smaller");
	refuse(good_memfd(), UINT64_MAX, "smaller");
	refuse(memfd(MFD_ALLOW_SEALING, 0, F_SEAL_SHRINK), 1, "smaller");
}

static void test_e2_mapped_memory_is_shared_and_cannot_shrink(void **state)
{
	struct kvc_region *region;
	const char *why;
	int fd = good_memfd();
	uint8_t byte = 0;

	(void)state;
	assert_int_equal(kvc_region_open(fd, BYTES, &region, &why), KVC_OK);
	assert_int_equal(region->bytes, BYTES);
	assert_int_equal(ftruncate(fd, 0), -1);
	region->data[BYTES - 1] = 42;
	assert_int_equal(pread(fd, &byte, 1, BYTES - 1), 1);
	assert_int_equal(byte, 42);
	/* A hole brings back zeros, not a signal. */
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES), 0);
	assert_int_equal(region->data[BYTES - 1], 0);
	close(fd);
	region->data[0] = 1; /* the mapping does not need the descriptor */
	kvc_region_unref(region);
}

static bool is_mapped(const void *address)
{
	unsigned char page;

	return mincore((void *)(uintptr_t)address, 1, &page) == 0;
}

static void test_unmapped_with_the_last_reference(void **state)
{
	struct kvc_region *region;
	const char *why;
	int fd = good_memfd();
	const void *data;

	(void)state;
	assert_int_equal(kvc_region_open(fd, BYTES, &region, &why), KVC_OK);
	data = region->data;
	assert_ptr_equal(kvc_region_ref(region), region);
	kvc_region_unref(region);
	assert_true(is_mapped(data));
	kvc_region_unref(region);
	assert_false(is_mapped(data));
	close(fd);
}

static void test_no_memory(void **state)
{
	struct kvc_region *region;
	const char *why;
	int fd = good_memfd();

	(void)state;
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(kvc_region_open(fd, BYTES, &region, &why), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_e1_not_a_memfd),
	        cmocka_unit_test(test_e1_wrong_seals),
	        cmocka_unit_test(test_e1_read_only_descriptor),
	        cmocka_unit_test(test_e1_huge_pages_of_hugetlbfs),
	        cmocka_unit_test(test_e4_size),
	        cmocka_unit_test(test_e2_mapped_memory_is_shared_and_cannot_shrink),
	        cmocka_unit_test(test_unmapped_with_the_last_reference),
	        cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
