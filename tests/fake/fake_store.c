/* See fake_store.h. */
#include "tests/fake/fake_store.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/image.h"

enum { ENTRIES = 256, PENDING = 64 };

struct kvc_client {
	int dummy;
};

struct kvc_namespace {
	int dummy;
};

struct kvc_memory {
	uint8_t *data;
	uint64_t bytes;
};

struct entry {
	char key[65];
	uint8_t *image;
	uint64_t bytes;
};

struct pending {
	bool put;
	struct kvc_memory *memory;
	struct kvc_block *blocks;
	size_t count;
	void *tag;
};

struct fake_store fake_store = {.batch = 64};

static struct entry entries[ENTRIES];
static struct pending queue[PENDING];
static struct kvc_client the_client;
static struct kvc_namespace the_namespace;
static struct kvc_memory the_memory;

/* --- entries --- */

static struct entry *entry_find(const void *key, size_t bytes)
{
	for (uint32_t i = 0; i < ENTRIES; i++) {
		if (entries[i].image && strlen(entries[i].key) == bytes &&
		    !memcmp(entries[i].key, key, bytes))
			return &entries[i];
	}
	return NULL;
}

const uint8_t *fake_store_image(const char *key, uint64_t *bytes)
{
	struct entry *entry = entry_find(key, strlen(key));

	*bytes = entry ? entry->bytes : 0;
	return entry ? entry->image : NULL;
}

void fake_store_clear(void)
{
	for (uint32_t i = 0; i < ENTRIES; i++) {
		free(entries[i].image);
		entries[i] = (struct entry){0};
	}
	fake_store = (struct fake_store){.batch = 64};
}

static kvc_status block_put(const struct kvc_memory *memory, const struct kvc_block *block)
{
	struct kvc_image image;
	uint32_t i = 0;

	fake_store.puts++;
	if (block->key_offset % KVC_IMAGE_ALIGN || block->key_offset + block->image_bytes > memory->bytes)
		return KVC_INVALID;
	if (kvc_image_open(memory->data + block->key_offset, block->image_bytes, 0, &image) != KVC_OK ||
	    kvc_image_verify(&image) != KVC_OK)
		return KVC_CORRUPT;
	if (entry_find(block->key, block->key_bytes))
		return KVC_OK;
	while (entries[i].image)
		i++;
	memcpy(entries[i].key, block->key, block->key_bytes);
	entries[i].bytes = block->image_bytes;
	entries[i].image = aligned_alloc(64, (block->image_bytes + 63) / 64 * 64);
	if (!entries[i].image)
		abort();
	memcpy(entries[i].image, memory->data + block->key_offset, block->image_bytes);
	return KVC_OK;
}

static kvc_status block_get(const struct kvc_memory *memory, struct kvc_block *block)
{
	struct entry *entry = entry_find(block->key, block->key_bytes);
	uint64_t room = block->image_bytes;

	fake_store.gets++;
	if (!entry)
		return KVC_MISS;
	if (block->key_offset + room > memory->bytes)
		return KVC_INVALID;
	block->image_bytes = entry->bytes;
	if (entry->bytes > room)
		return KVC_LIMIT;
	memcpy(memory->data + block->key_offset, entry->image, entry->bytes);
	if (fake_store.damage)
		memory->data[block->key_offset + KVC_IMAGE_HEADER_BYTES + 9] ^= 1;
	if (fake_store.swap) {
		uint8_t *other = fake_store.swap(&block->image_bytes);

		memcpy(memory->data + block->key_offset, other, block->image_bytes);
	}
	return KVC_OK;
}

/* --- the client's functions --- */

kvc_status kvc_client_create(const struct kvc_client_options *options, struct kvc_client **client)
{
	(void)options;
	fake_store.clients++;
	*client = &the_client;
	return KVC_OK;
}

void kvc_client_destroy(struct kvc_client *client)
{
	if (!client)
		return;
	fake_store.clients--;
	fake_store.pending = 0;
	free(the_memory.data);
	the_memory.data = NULL;
}

const char *kvc_last_error(void)
{
	return "fake";
}

kvc_status kvc_client_info(struct kvc_client *client, struct kvc_daemon_info *info, uint32_t deadline_ms)
{
	(void)client;
	(void)deadline_ms;
	info->batch = fake_store.batch;
	return KVC_OK;
}

int kvc_client_fd(struct kvc_client *client)
{
	(void)client;
	return -1;
}

kvc_status kvc_namespace_open(struct kvc_client *client, const struct kvc_namespace_options *options,
                              uint32_t deadline_ms, struct kvc_namespace **ns)
{
	(void)client;
	(void)options;
	(void)deadline_ms;
	*ns = &the_namespace;
	return fake_store.submit;
}

kvc_status kvc_memory_create(struct kvc_client *client, uint64_t bytes, struct kvc_memory **memory)
{
	(void)client;
	the_memory.bytes = bytes;
	the_memory.data = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
	if (!the_memory.data)
		abort();
	*memory = &the_memory;
	return KVC_OK;
}

void *kvc_memory_data(struct kvc_memory *memory)
{
	return memory->data;
}

uint64_t kvc_memory_bytes(const struct kvc_memory *memory)
{
	return memory->bytes;
}

kvc_status kvc_memory_renew(struct kvc_memory *memory)
{
	memset(memory->data, 0, memory->bytes);
	fake_store.fenced = false;
	fake_store.renewals++;
	return KVC_OK;
}

void kvc_transfer_init(struct kvc_transfer *transfer, struct kvc_memory *memory)
{
	*transfer = (struct kvc_transfer){
	        .size = sizeof *transfer, .memory = memory, .ack = KVC_ACK_RAM, .priority = KVC_PUT_NORMAL};
}

static kvc_status submit(const struct kvc_transfer *transfer, bool put, struct kvc_block *blocks,
                         size_t count, void *tag)
{
	if (fake_store.submit != KVC_OK)
		return fake_store.submit;
	if (fake_store.fenced)
		return KVC_FENCED;
	if (fake_store.pending == PENDING)
		return KVC_BUSY;
	if (transfer->form != KVC_FORM_IMAGE || count == 0 || count > fake_store.batch)
		return KVC_INVALID;
	queue[fake_store.pending++] = (struct pending){put, transfer->memory, blocks, count, tag};
	return KVC_OK;
}

kvc_status kvc_put_submit(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *tag)
{
	(void)ns;
	fake_store.last_put = *transfer;
	return submit(transfer, true, blocks, count, tag);
}

kvc_status kvc_get_submit(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *tag)
{
	(void)ns;
	return submit(transfer, false, blocks, count, tag);
}

static void answer(const struct pending *pending, struct kvc_completion *completion)
{
	*completion = (struct kvc_completion){.tag = pending->tag, .status = fake_store.answer};
	for (size_t i = 0; i < pending->count; i++) {
		struct kvc_block *block = &pending->blocks[i];

		block->status = fake_store.answer;
		if (block->status == KVC_OK)
			block->status = pending->put ? block_put(pending->memory, block)
			                             : block_get(pending->memory, block);
		completion->outcome.from_ram += !pending->put && block->status == KVC_OK;
		completion->outcome.stored_bytes += block->status == KVC_OK ? block->image_bytes : 0;
	}
}

kvc_status kvc_client_next(struct kvc_client *client, struct kvc_completion *completions, size_t max,
                           uint32_t timeout_ms, size_t *count)
{
	(void)client;
	(void)timeout_ms;
	*count = 0;
	while (!fake_store.silent && *count < max && fake_store.pending) {
		answer(&queue[0], &completions[(*count)++]);
		memmove(queue, queue + 1, --fake_store.pending * sizeof queue[0]);
	}
	return KVC_OK;
}
