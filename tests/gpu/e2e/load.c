/* See load.h. */
#include "tests/gpu/e2e/load.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEADLINE_MS 2000u
#define GRACE_MS    500u /* the library's 250, and a busy machine */
#define WINDOW      16u  /* batches of a thread that are alive */

static void *memory_take(size_t bytes)
{
	void *memory = malloc(bytes);

	if (!memory) {
		fprintf(stderr, "out of memory: %zu bytes\n", bytes);
		exit(1);
	}
	return memory;
}

/* ---- oracle -------------------------------------------------------------------------------- */

static void content_make(struct load_oracle *oracle, unsigned id)
{
	size_t bytes = kvc_sample_bytes(&oracle->space, id);

	oracle->source[id] = memory_take(bytes);
	kvc_sample_source(&oracle->space, id, oracle->source[id]);
	if (!oracle->restored)
		return;
	oracle->restored[id] = memory_take(bytes);
	if (!kvc_sample_restore(&oracle->space, id, oracle->source[id], oracle->restored[id]))
		exit(1);
}

static void oracle_init(struct load_oracle *oracle, unsigned contents, bool blind)
{
	struct kvc_namespace_options options;
	bool small = driver_is_fake();

	kvc_namespace_options_init(&options);
	options.model = "load";
	options.layers = small ? 2 : 8;
	options.heads = small ? 2 : 4;
	options.key_dim = options.value_dim = 128;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 64;
	if (kvc_sample_space_init(&oracle->space, &options, 11) != KVC_OK)
		abort();
	oracle->contents = contents;
	oracle->source = memory_take(contents * sizeof *oracle->source);
	oracle->restored = blind ? NULL : memory_take(contents * sizeof *oracle->restored);
	for (unsigned id = 0; id < contents; id++)
		content_make(oracle, id);
}

void load_oracle_open(struct load_oracle *oracle, unsigned contents)
{
	oracle_init(oracle, contents, false);
}

void load_oracle_open_blind(struct load_oracle *oracle, unsigned contents)
{
	oracle_init(oracle, contents, true);
}

void load_oracle_close(struct load_oracle *oracle)
{
	for (unsigned id = 0; id < oracle->contents; id++) {
		free(oracle->source[id]);
		if (oracle->restored)
			free(oracle->restored[id]);
	}
	free(oracle->source);
	free(oracle->restored);
}

/* ---- a user -------------------------------------------------------------------------------- */

static bool memory_open(struct load_user *user)
{
	return kvc_memory_create(user->client, user->step * LOAD_BATCH, &user->memory) == KVC_OK;
}

static bool pool_open(struct load_user *user, const struct paged_form *form)
{
	const struct kvc_namespace_options *shape = &user->oracle->space.options;
	uint64_t pages = shape->block_tokens / form->page_tokens + 1;

	user->on_device = true;
	paged_open(&user->paged, shape, form, pages * LOAD_BATCH);
	return paged_register(&user->paged, user->ns) == KVC_OK;
}

bool load_user_open(struct load_user *user, const struct load_oracle *oracle, const char *socket,
                    const struct paged_form *form, struct load_counts *counts)
{
	struct kvc_client_options options;

	memset(user, 0, sizeof *user);
	user->oracle = oracle;
	user->device = driver_device();
	user->device = driver_device();
	user->counts = counts;
	user->deadline_ms = DEADLINE_MS * kvc_server_patience();
	user->step = (kvc_sample_bytes_max(&oracle->space) + 4095) / 4096 * 4096;
	user->elements = memory_take(user->step);
	kvc_client_options_init(&options);
	options.socket_path = socket;
	options.deadline_ms = user->deadline_ms;
	return kvc_client_create(&options, &user->client) == KVC_OK &&
	       kvc_namespace_open(user->client, &oracle->space.options, 0, &user->ns) == KVC_OK &&
	       (form ? pool_open(user, form) : memory_open(user));
}

void load_user_close(struct load_user *user)
{
	if (user->on_device)
		paged_close(&user->paged);
	if (user->memory)
		kvc_memory_destroy(user->memory);
	if (user->ns)
		kvc_namespace_close(user->ns);
	if (user->client)
		kvc_client_destroy(user->client);
	free(user->elements);
}

static unsigned content_of(const struct load_user *user, uint64_t number)
{
	return (unsigned)(number % user->oracle->contents);
}

static void key_make(uint64_t number, uint8_t key[LOAD_KEY_BYTES])
{
	const uint64_t words[2] = {number, ~number};

	memcpy(key, words, LOAD_KEY_BYTES);
}

static void blocks_init(struct load_user *user, uint64_t first, size_t count)
{
	const struct kvc_sample_space *space = &user->oracle->space;

	if (user->on_device)
		paged_reset(&user->paged);
	for (size_t i = 0; i < count; i++) {
		struct kvc_block *block = &user->blocks[i];

		kvc_sample_block(space, content_of(user, first + i), i * user->step, user->elements, block);
		key_make(first + i, user->keys[i]);
		block->key = user->keys[i];
		block->key_bytes = LOAD_KEY_BYTES;
		if (user->on_device)
			paged_place(&user->paged, block);
	}
}

static void transfer_init(const struct load_user *user, struct kvc_transfer *transfer)
{
	kvc_transfer_init(transfer, user->memory);
	transfer->pool = user->on_device ? user->paged.pool : NULL;
}

static uint8_t *place_of(const struct load_user *user, size_t i)
{
	return (uint8_t *)kvc_memory_data(user->memory) + i * user->step;
}

/* ---- calls --------------------------------------------------------------------------------- */

static void note(struct load_user *user, kvc_status status)
{
	if (status == KVC_OK)
		return;
	if (status == KVC_MISS) {
		atomic_fetch_add(&user->counts->misses, 1);
	} else if (kvc_status_retryable(status)) {
		atomic_fetch_add(&user->counts->retryable, 1);
	} else {
		atomic_fetch_add(&user->counts->refused, 1);
		atomic_store(&user->counts->last_status, status);
	}
}

static void note_time(struct load_user *user, double started_ms)
{
	if (rig_now_ms() - started_ms > user->deadline_ms + GRACE_MS * kvc_server_patience())
		atomic_fetch_add(&user->counts->slow, 1);
}

/* Memory is fenced after a deadline that the daemon did not answer; pools wait for the answer. */
static void note_call(struct load_user *user, kvc_status status)
{
	note(user, status);
	if (status == KVC_FENCED && user->memory)
		kvc_memory_renew(user->memory);
	else if (status != KVC_OK)
		kvc_server_step();
}

void load_prepare(struct load_user *user, uint64_t first, size_t count)
{
	blocks_init(user, first, count);
	for (size_t i = 0; i < count; i++) {
		unsigned id = content_of(user, first + i);

		if (user->on_device)
			paged_write(&user->paged, &user->blocks[i], user->oracle->source[id]);
		else
			memcpy(place_of(user, i), user->oracle->source[id],
			       kvc_sample_bytes(&user->oracle->space, id));
	}
	if (user->on_device)
		paged_upload(&user->paged);
}

size_t load_put(struct load_user *user, uint64_t first, size_t count, uint32_t ack)
{
	struct kvc_transfer transfer;
	double started = rig_now_ms();
	kvc_status status;
	size_t ok = 0;

	load_prepare(user, first, count);
	transfer_init(user, &transfer);
	transfer.ack = ack;
	started = rig_now_ms();
	status = kvc_put(user->ns, &transfer, user->blocks, count, &user->outcome);
	note_time(user, started);
	note_call(user, status);
	for (size_t i = 0; status == KVC_OK && i < count; i++) {
		note(user, user->blocks[i].status);
		ok += user->blocks[i].status == KVC_OK;
	}
	atomic_fetch_add(&user->counts->blocks, ok);
	return ok;
}

static bool block_right(struct load_user *user, uint64_t number, size_t i)
{
	unsigned id = content_of(user, number);
	const uint8_t *seen = user->elements;

	if (user->on_device)
		paged_read(&user->paged, &user->blocks[i], user->elements);
	else
		seen = place_of(user, i);
	if (memcmp(seen, user->oracle->restored[id], kvc_sample_bytes(&user->oracle->space, id)) == 0)
		return true;
	atomic_fetch_add(&user->counts->wrong, 1);
	return false;
}

static void poison(struct load_user *user)
{
	if (user->on_device) {
		paged_poison(&user->paged);
		paged_upload(&user->paged);
	} else {
		memset(kvc_memory_data(user->memory), PAGED_POISON, user->step * LOAD_BATCH);
	}
}

size_t load_get(struct load_user *user, uint64_t first, size_t count)
{
	struct kvc_transfer transfer;
	double started;
	kvc_status status;
	size_t ok = 0;

	blocks_init(user, first, count);
	poison(user);
	transfer_init(user, &transfer);
	started = rig_now_ms();
	status = kvc_get(user->ns, &transfer, user->blocks, count, &user->outcome);
	note_time(user, started);
	note_call(user, status);
	if (status == KVC_OK && user->on_device)
		paged_download(&user->paged);
	for (size_t i = 0; status == KVC_OK && i < count; i++) {
		note(user, user->blocks[i].status);
		ok += user->blocks[i].status == KVC_OK && block_right(user, first + i, i);
	}
	atomic_fetch_add(&user->counts->blocks, ok);
	return ok;
}

static void names_init(struct load_user *user, uint64_t first, size_t count, struct kvc_key *names)
{
	for (size_t i = 0; i < count; i++) {
		key_make(first + i, user->keys[i]);
		names[i] = (struct kvc_key){.data = user->keys[i], .bytes = LOAD_KEY_BYTES};
	}
}

size_t load_drop(struct load_user *user, uint64_t first, size_t count)
{
	struct kvc_key names[LOAD_BATCH] = {0};
	size_t done = 0;

	names_init(user, first, count, names);
	note_call(user, kvc_drop(user->ns, names, count, 0, &done));
	return done;
}

int load_present(struct load_user *user, uint64_t first, size_t count, uint32_t *present)
{
	struct kvc_key names[LOAD_BATCH] = {0};
	uint8_t tiers[LOAD_BATCH];
	size_t prefix;
	int found = 0;

	names_init(user, first, count, names);
	if (kvc_lookup(user->ns, names, count, 0, &prefix, tiers) != KVC_OK)
		return -1;
	*present = 0;
	for (size_t i = 0; i < count; i++) {
		found += tiers[i] != KVC_TIER_NONE;
		*present |= (uint32_t)(tiers[i] != KVC_TIER_NONE) << i;
	}
	return found;
}

/* ---- threads ------------------------------------------------------------------------------- */

static void *thread_run(void *argument)
{
	struct load_thread *thread = argument;
	struct load_user *user = &thread->user;
	uint64_t batch = 0;

	driver_enter(thread->user.device);
	while (!atomic_load(&thread->stop)) {
		uint64_t oldest = batch < WINDOW ? 0 : batch - WINDOW;
		uint64_t some = oldest + kvc_sample_random(&thread->seed) % (batch - oldest + 1);

		load_put(user, thread->first + batch * LOAD_BATCH, LOAD_BATCH, KVC_ACK_RAM);
		load_get(user, thread->first + some * LOAD_BATCH, LOAD_BATCH);
		if (batch >= WINDOW)
			load_drop(user, thread->first + oldest * LOAD_BATCH, LOAD_BATCH);
		batch++;
	}
	return NULL;
}

bool load_thread_start(struct load_thread *thread, unsigned number, const struct load_oracle *oracle,
                       const char *socket, const struct paged_form *form, struct load_counts *counts)
{
	pthread_t handle;

	memset(thread, 0, sizeof *thread);
	thread->first = (uint64_t)(number + 1) << 32;
	thread->seed = number;
	if (!load_user_open(&thread->user, oracle, socket, form, counts)) {
		fprintf(stderr, "load thread %u: %s\n", number, kvc_last_error());
		return false;
	}
	thread->started = pthread_create(&handle, NULL, thread_run, thread) == 0;
	thread->handle = handle;
	return thread->started;
}

void load_thread_stop(struct load_thread *thread)
{
	atomic_store(&thread->stop, true);
	if (thread->started)
		pthread_join(thread->handle, NULL);
	load_user_close(&thread->user);
}
