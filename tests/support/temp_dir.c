/* Temporary directories of tests. */
#include "tests/support/temp_dir.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

void kvc_test_temp_dir(char path[KVC_TEMP_DIR_BYTES])
{
	const char *parent = getenv("TMPDIR");

	snprintf(path, KVC_TEMP_DIR_BYTES, "%s/kvc-test-XXXXXX", parent ? parent : "/tmp");
	if (mkdtemp(path))
		return;
	perror(path);
	exit(1);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

void kvc_test_temp_dir_remove(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
