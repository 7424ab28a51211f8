/* Loading the CUDA driver: see cuda_driver.h. */
#include "client/cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "client/fail.h"

#define LIBRARY "libcuda.so.1"

static struct kvcc_cuda table;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static kvc_status loaded; /* written by load() alone, as are the two below */
static char reason[KVCC_DETAIL_BYTES];

/* POSIX lets dlsym's result be a function; ISO C has no cast for it. */
static bool find(void *library, const char *symbol, void *member)
{
	void *found = dlsym(library, symbol);

	if (!found)
		(void)snprintf(reason, sizeof(reason), "the CUDA driver is too old: it has no %s", symbol);
	memcpy(member, &found, sizeof(found));
	return found != NULL;
}

static bool find_all(void *library)
{
	bool all = true;

#define KVCC_CUDA_FIND(member, symbol, parameters) all = all && find(library, symbol, &table.member);
	KVCC_CUDA_TABLE(KVCC_CUDA_FIND)
#undef KVCC_CUDA_FIND
	return all;
}

/* The library stays: its threads and handlers do not survive being unloaded. */
static void load(void)
{
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	const char *text = NULL;
	kvcc_cu_result error;

	loaded = KVC_UNSUPPORTED;
	if (!library) {
		(void)snprintf(reason, sizeof(reason), "there is no CUDA driver: %s", dlerror());
		return;
	}
	if (!find_all(library))
		return;
	error = table.init(0);
	if (error == 0) {
		loaded = KVC_OK;
		return;
	}
	if (table.error_string(error, &text) != 0 || !text)
		text = "unknown error";
	(void)snprintf(reason, sizeof(reason), "the CUDA driver does not start: %s (%d)", text, error);
}

kvc_status kvcc_cuda_load(const struct kvcc_cuda **cuda)
{
	(void)pthread_once(&once, load);
	if (loaded != KVC_OK)
		return kvcc_fail(loaded, "%s", reason);
	*cuda = &table;
	return KVC_OK;
}

kvc_status kvcc_cuda_fail(const struct kvcc_cuda *cuda, kvcc_cu_result error, const char *what)
{
	enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_PERMITTED = 800, NOT_SUPPORTED = 801 };
	const char *text = NULL;
	kvc_status status = KVC_INTERNAL;

	if (cuda->error_string(error, &text) != 0 || !text)
		text = "unknown error";
	if (error == INVALID_VALUE)
		status = KVC_INVALID;
	else if (error == OUT_OF_MEMORY)
		status = KVC_NO_MEMORY;
	else if (error == NOT_PERMITTED || error == NOT_SUPPORTED)
		status = KVC_UNSUPPORTED;
	return kvcc_fail(status, "%s: CUDA says %s (%d)", what, text, error);
}
