/* main() for fuzz targets that are built without a fuzzer: runs the target over the files that are named, and
 * over all files in folders that are named. Fails if there were none. */
#include <errno.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPEN_FOLDERS 16

static unsigned long inputs;

/* 0, or -1 after telling the error. */
static int run_bytes(const char *path, FILE *file, size_t size)
{
	/* Exactly so many bytes, so that a sanitizer sees the first one beyond. */
	uint8_t *bytes = malloc(size ? size : 1);

	if (!bytes || fread(bytes, 1, size, file) != size) {
		fprintf(stderr, "%s: cannot read %zu bytes\n", path, size);
		free(bytes);
		return -1;
	}
	LLVMFuzzerTestOneInput(bytes, size);
	free(bytes);
	inputs++;
	return 0;
}

static int run_file(const char *path, const struct stat *status, int type, struct FTW *where)
{
	FILE *file;
	int result;

	(void)where;
	if (type == FTW_D)
		return 0;
	if (type != FTW_F) {
		fprintf(stderr, "%s: neither file nor folder, or not readable\n", path);
		return -1;
	}
	file = fopen(path, "rb");
	if (!file) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return -1;
	}
	result = run_bytes(path, file, (size_t)status->st_size);
	fclose(file);
	return result;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int result = nftw(argv[i], run_file, OPEN_FOLDERS, FTW_PHYS);

		if (result != 0) {
			if (errno == ENOENT)
				fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			return 1;
		}
	}
	printf("%lu inputs\n", inputs);
	if (inputs == 0) {
		fprintf(stderr, "%s: no inputs: name files or folders of a corpus\n", argv[0]);
		return 1;
	}
	return 0;
}
