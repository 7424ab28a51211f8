/* See road.h. */
#include "tests/gpu/e2e/road.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/kvcellar_worker.h"

#define DEADLINE_MS 20000u
#define BATCH       32u
#define DEPTH       8u
#define LIBRARY     "libkvcellar-cuda.so.0"

/* Road 2's library: it links CUDA, which these programs do not. */
static struct {
	void *library;
	void (*options_init)(struct kvc_worker_options *);
	kvc_status (*create)(const struct kvc_worker_options *, struct kvc_worker **);
	void (*destroy)(struct kvc_worker *);
	uint32_t (*batch)(const struct kvc_worker *);
	kvc_status (*put)(struct kvc_worker *, struct kvc_block *, size_t, uint32_t, void *, void *);
	kvc_status (*get)(struct kvc_worker *, struct kvc_block *, size_t, void *, void *);
	kvc_status (*next)(struct kvc_worker *, struct kvc_completion *, size_t, uint32_t, size_t *);
	const char *(*error)(void);
} worker;

static const struct {
	const char *name;
	void *slot;
} worker_symbols[] = {
        {"kvc_worker_options_init", &worker.options_init},
        {"kvc_worker_create", &worker.create},
        {"kvc_worker_destroy", &worker.destroy},
        {"kvc_worker_batch", &worker.batch},
        {"kvc_worker_put_submit", &worker.put},
        {"kvc_worker_get_submit", &worker.get},
        {"kvc_worker_next", &worker.next},
        {"kvc_worker_error", &worker.error},
};

static bool worker_load(void)
{
	const char *folder = getenv("KVC_LIB");
	char path[4096];

	if (worker.library)
		return true;
	snprintf(path, sizeof path, "%s/%s", folder && *folder ? folder : "build/lib", LIBRARY);
	worker.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!worker.library) {
		fprintf(stderr, "%s\n", dlerror());
		return false;
	}
	for (size_t i = 0; i < sizeof worker_symbols / sizeof worker_symbols[0]; i++) {
		*(void **)worker_symbols[i].slot = dlsym(worker.library, worker_symbols[i].name);
		if (!*(void **)worker_symbols[i].slot) {
			fprintf(stderr, "%s has no %s\n", path, worker_symbols[i].name);
			return false;
		}
	}
	return true;
}

/* ---- open and close ------------------------------------------------------------------------ */

static void limits_set(struct road *road)
{
	struct kvc_daemon_info info = {.size = sizeof info};

	road->batch = BATCH;
	road->depth = DEPTH;
	if (kvc_client_info(road->client, &info, 0) != KVC_OK)
		return;
	road->batch = info.batch < BATCH ? info.batch : BATCH;
	road->depth = info.inflight < DEPTH ? info.inflight : DEPTH;
}

static bool worker_open(struct road *road, const struct kvc_client_options *client,
                        const struct kvc_namespace_options *options, uint32_t sms)
{
	struct kvc_worker_options want;
	struct kvc_pool_options pool;

	if (!worker_load())
		return false;
	worker.options_init(&want);
	paged_options(road->paged, &pool);
	want.client = client;
	want.ns = options;
	want.pool = &pool;
	want.slots = 2 * BATCH;
	if (sms)
		want.sms = sms;
	if (worker.create(&want, &road->worker) != KVC_OK) {
		fprintf(stderr, "road 2: %s\n", worker.error());
		return false;
	}
	if (worker.batch(road->worker) < road->batch)
		road->batch = worker.batch(road->worker);
	return true;
}

bool road_open(struct road *road, unsigned number, const char *socket,
               const struct kvc_namespace_options *options, struct paged *paged, uint32_t sms, void *stream)
{
	struct kvc_client_options client;

	memset(road, 0, sizeof *road);
	road->number = number;
	road->paged = paged;
	road->stream = stream;
	kvc_client_options_init(&client);
	client.socket_path = socket;
	client.deadline_ms = DEADLINE_MS;
	if (kvc_client_create(&client, &road->client) == KVC_OK &&
	    kvc_namespace_open(road->client, options, 0, &road->ns) == KVC_OK) {
		limits_set(road);
		if (number == 2)
			return worker_open(road, &client, options, sms);
		if (paged_register(paged, road->ns) == KVC_OK)
			return true;
	}
	fprintf(stderr, "road %u: %s\n", number, kvc_last_error());
	return false;
}

void road_close(struct road *road)
{
	if (road->worker)
		worker.destroy(road->worker);
	else
		paged_unregister(road->paged);
	if (road->ns)
		kvc_namespace_close(road->ns);
	if (road->client)
		kvc_client_destroy(road->client);
}

/* ---- requests ------------------------------------------------------------------------------ */

static kvc_status submit(struct road *road, bool get, struct kvc_block *blocks, size_t count)
{
	struct kvc_transfer transfer;

	if (road->worker)
		return get ? worker.get(road->worker, blocks, count, road->stream, NULL)
		           : worker.put(road->worker, blocks, count, KVC_ACK_RAM, road->stream, NULL);
	kvc_transfer_init(&transfer, NULL);
	transfer.pool = road->paged->pool;
	transfer.stream = road->stream;
	return get ? kvc_get_submit(road->ns, &transfer, blocks, count, NULL)
	           : kvc_put_submit(road->ns, &transfer, blocks, count, NULL);
}

static size_t take(struct road *road, struct kvc_outcome *outcome)
{
	struct kvc_completion completions[DEPTH];
	size_t count = 0;

	if (road->worker)
		worker.next(road->worker, completions, DEPTH, 100, &count);
	else
		kvc_client_next(road->client, completions, DEPTH, 100, &count);
	for (size_t i = 0; outcome && i < count; i++) {
		outcome->blocks_ok += completions[i].outcome.blocks_ok;
		outcome->stored_bytes += completions[i].outcome.stored_bytes;
		outcome->from_vram += completions[i].outcome.from_vram;
		outcome->from_ram += completions[i].outcome.from_ram;
		outcome->from_disk += completions[i].outcome.from_disk;
	}
	return count;
}

static size_t transfer_all(struct road *road, bool get, struct kvc_block *blocks, size_t count,
                           struct kvc_outcome *outcome)
{
	size_t at = 0;
	size_t under_way = 0;
	size_t ok = 0;

	while (at < count || under_way) {
		size_t some = count - at < road->batch ? count - at : road->batch;
		kvc_status status = KVC_BUSY;

		if (some && under_way < road->depth)
			status = submit(road, get, blocks + at, some);
		if (status == KVC_OK) {
			at += some;
			under_way++;
			continue;
		}
		if (status != KVC_BUSY || !under_way) {
			fprintf(stderr, "submit: %s: %s\n", kvc_status_name(status), kvc_last_error());
			exit(1);
		}
		under_way -= take(road, outcome);
	}
	for (size_t i = 0; i < count; i++)
		ok += blocks[i].status == KVC_OK;
	return ok;
}

size_t road_put(struct road *road, struct kvc_block *blocks, size_t count, struct kvc_outcome *outcome)
{
	return transfer_all(road, false, blocks, count, outcome);
}

size_t road_get(struct road *road, struct kvc_block *blocks, size_t count, struct kvc_outcome *outcome)
{
	return transfer_all(road, true, blocks, count, outcome);
}

void road_drop(struct road *road, const struct kvc_block *blocks, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct kvc_key name = {.data = blocks[i].key, .bytes = blocks[i].key_bytes};
		size_t done;

		kvc_drop(road->ns, &name, 1, 0, &done);
	}
}
