/* Linear hashing over chunked arrays. See index.h.
 *
 * With 2^level <= buckets < 2^(level+1): a key's bucket is its low level+1 bits if that bucket exists, else
 * its low level bits. Growing by one bucket splits bucket (buckets - 2^level). There is at least one bucket
 * an entry, so chains stay short (mean below 1.5). If memory for a bucket is refused the table just gets
 * slower.
 *
 * With many blocks nearly every access misses the processor's cache, and with small pages its translation of
 * addresses too: so pieces are huge pages from the first use on, as soon as what is not used of the last one
 * is less than a hundredth; before, only small pages that are used are taken, and the system makes huge ones
 * of full pieces in its own time. */
#include "daemon/cache/index.h"

#include <stddef.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"

static_assert(offsetof(struct kvc_entry, slab) < 64, "a look-up reads two lines at most");

#define PIECE_BYTES   KVC_HUGE_BYTES
#define PIECE_ENTRIES ((uint32_t)(PIECE_BYTES / sizeof(struct kvc_entry)))
#define PIECE_BUCKETS ((uint32_t)(PIECE_BYTES / sizeof(uint32_t)))
#define PAGE_BYTES    4096u

/* Pieces before the first that is huge: of 3 million entries, and 6 million buckets. */
#define SMALL_ENTRIES 128u
#define SMALL_BUCKETS 12u

/* A growing array in pieces that never move. */
struct chunks {
	void **pieces;
	uint32_t count;    /* pieces there are */
	uint32_t capacity; /* pieces that the directory has room for */
	uint32_t small;    /* the first ones, that are not huge from the start */
};

struct kvc_index {
	struct chunks entries;
	struct chunks buckets;
	uint64_t hash_mask;
	uint32_t entry_high;   /* entries ever used */
	uint32_t free_entries; /* list through `chain` */
	uint32_t count;        /* entries in the table */
	uint32_t bucket_count;
	uint32_t level;
};

static kvc_status chunks_grow(struct chunks *chunks)
{
	void *piece;

	if (chunks->count == chunks->capacity) {
		uint32_t capacity = chunks->capacity ? 2 * chunks->capacity : 16;
		void **pieces = kvc_realloc(chunks->pieces, capacity, sizeof *pieces);

		if (!pieces)
			return KVC_NO_MEMORY;
		chunks->pieces = pieces;
		chunks->capacity = capacity;
	}
	piece = kvc_huge_alloc(PIECE_BYTES, chunks->count >= chunks->small);
	if (!piece)
		return KVC_NO_MEMORY;
	if (chunks->count && chunks->count <= chunks->small)
		kvc_huge_settle(chunks->pieces[chunks->count - 1], PIECE_BYTES);
	chunks->pieces[chunks->count++] = piece;
	return KVC_OK;
}

static void chunks_free(struct chunks *chunks)
{
	for (uint32_t i = 0; i < chunks->count; i++)
		kvc_huge_free(chunks->pieces[i], PIECE_BYTES);
	kvc_free(chunks->pieces);
}

static uint32_t *bucket_head(const struct kvc_index *index, uint32_t bucket)
{
	return (uint32_t *)index->buckets.pieces[bucket / PIECE_BUCKETS] + bucket % PIECE_BUCKETS;
}

static struct kvc_entry *entry_at(const struct kvc_index *index, uint32_t id)
{
	return (struct kvc_entry *)index->entries.pieces[id / PIECE_ENTRIES] + id % PIECE_ENTRIES;
}

struct kvc_entry *kvc_index_entry(struct kvc_index *index, uint32_t id)
{
	KVC_PRE(id < index->entry_high);
	return entry_at(index, id);
}

static uint32_t bucket_of(const struct kvc_index *index, const struct kvc_storage_key *key)
{
	uint64_t hash = kvc_storage_key_hash(key) & index->hash_mask;
	uint32_t bucket = (uint32_t)(hash & ((2ull << index->level) - 1));

	return bucket < index->bucket_count ? bucket : (uint32_t)(hash & ((1ull << index->level) - 1));
}

static kvc_status bucket_add(struct kvc_index *index)
{
	uint32_t bucket = index->bucket_count;

	if (bucket == index->buckets.count * PIECE_BUCKETS && chunks_grow(&index->buckets) != KVC_OK)
		return KVC_NO_MEMORY;
	index->bucket_count++;
	*bucket_head(index, bucket) = KVC_ENTRY_NONE;
	return KVC_OK;
}

kvc_status kvc_index_open(uint64_t hash_mask, struct kvc_index **out)
{
	struct kvc_index *index = kvc_calloc(1, sizeof *index);

	if (!index)
		return KVC_NO_MEMORY;
	index->hash_mask = hash_mask ? hash_mask : UINT64_MAX;
	index->free_entries = KVC_ENTRY_NONE;
	index->entries.small = SMALL_ENTRIES;
	index->buckets.small = SMALL_BUCKETS;
	if (bucket_add(index) != KVC_OK) {
		kvc_index_close(index);
		return KVC_NO_MEMORY;
	}
	*out = index;
	return KVC_OK;
}

void kvc_index_close(struct kvc_index *index)
{
	chunks_free(&index->entries);
	chunks_free(&index->buckets);
	kvc_free(index);
}

uint32_t kvc_index_count(const struct kvc_index *index)
{
	return index->count;
}

uint32_t kvc_index_high(const struct kvc_index *index)
{
	return index->entry_high;
}

/* Of the last piece, if it is not a huge page, only the pages that are used are taken. */
static uint64_t chunks_bytes(const struct chunks *chunks, uint32_t used, uint32_t in_piece, size_t size)
{
	uint64_t last = used - (chunks->count ? (uint64_t)(chunks->count - 1) * in_piece : 0);
	uint64_t full = chunks->count ? (uint64_t)(chunks->count - 1) * PIECE_BYTES : 0;

	if (chunks->count > chunks->small)
		last = PIECE_BYTES;
	else
		last = kvc_round_up(last * size, PAGE_BYTES);
	return full + last + chunks->capacity * sizeof(void *);
}

uint64_t kvc_index_bytes(const struct kvc_index *index)
{
	return sizeof *index +
	       chunks_bytes(&index->entries, index->entry_high, PIECE_ENTRIES, sizeof(struct kvc_entry)) +
	       chunks_bytes(&index->buckets, index->bucket_count, PIECE_BUCKETS, sizeof(uint32_t));
}

uint32_t kvc_index_find(struct kvc_index *index, const struct kvc_storage_key *key)
{
	uint32_t id = *bucket_head(index, bucket_of(index, key));

	while (id != KVC_ENTRY_NONE) {
		const struct kvc_entry *entry = kvc_index_entry(index, id);

		if (kvc_storage_key_equal(&entry->key, key))
			return id;
		id = entry->chain;
	}
	return KVC_ENTRY_NONE;
}

/* What a look-up needs of an entry. Always inlined: gcc takes a function that
 * does nothing but prefetch for one without effect, and leaves out the calls. */
static inline __attribute__((always_inline)) void entry_prefetch(const struct kvc_index *index, uint32_t id)
{
	const uint8_t *entry = (const uint8_t *)entry_at(index, id);

	__builtin_prefetch(entry);
	__builtin_prefetch(entry + offsetof(struct kvc_entry, slab));
}

/* What the policy keeps in an entry, if it is one: other policies than lists have other numbers there. */
static inline __attribute__((always_inline)) void node_prefetch(const struct kvc_index *index, uint32_t id)
{
	if (id < index->entry_high)
		__builtin_prefetch(&entry_at(index, id)->node);
}

/* Step n fetches the n-th entry of the bucket, or the neighbours of the one before if that is the one. */
void kvc_index_prefetch(const struct kvc_index *index, const struct kvc_storage_key *key, unsigned step)
{
	const uint32_t *head = bucket_head(index, bucket_of(index, key));
	uint32_t id;

	if (step == 0) {
		__builtin_prefetch(head);
		return;
	}
	id = *head;
	for (unsigned n = 1; n < step && id != KVC_ENTRY_NONE; n++) {
		const struct kvc_entry *entry = entry_at(index, id);

		if (kvc_storage_key_equal(&entry->key, key)) {
			if (n + 1 == step && kvc_policy_listed(&entry->node)) {
				node_prefetch(index, entry->node.colder);
				node_prefetch(index, entry->node.hotter);
			}
			return;
		}
		id = entry->chain;
	}
	if (id != KVC_ENTRY_NONE)
		entry_prefetch(index, id);
}

/* Add one bucket and share out the entries of the one that it splits. */
static void bucket_split(struct kvc_index *index)
{
	uint32_t from = index->bucket_count - (1u << index->level);
	uint32_t id = *bucket_head(index, from);

	if (bucket_add(index) != KVC_OK)
		return;
	*bucket_head(index, from) = KVC_ENTRY_NONE;
	if (index->bucket_count == 2u << index->level)
		index->level++;
	while (id != KVC_ENTRY_NONE) {
		struct kvc_entry *entry = kvc_index_entry(index, id);
		uint32_t *head = bucket_head(index, bucket_of(index, &entry->key));
		uint32_t next = entry->chain;

		entry->chain = *head;
		*head = id;
		id = next;
	}
}

static kvc_status entry_take(struct kvc_index *index, uint32_t *id)
{
	if (index->free_entries != KVC_ENTRY_NONE) {
		*id = index->free_entries;
		index->free_entries = kvc_index_entry(index, *id)->chain;
		return KVC_OK;
	}
	if (index->entry_high == KVC_ENTRY_NONE)
		return KVC_NO_MEMORY;
	if (index->entry_high == index->entries.count * PIECE_ENTRIES &&
	    chunks_grow(&index->entries) != KVC_OK)
		return KVC_NO_MEMORY;
	*id = index->entry_high++;
	return KVC_OK;
}

kvc_status kvc_index_insert(struct kvc_index *index, const struct kvc_storage_key *key, uint32_t *id)
{
	struct kvc_entry *entry;
	uint32_t *head;

	if (entry_take(index, id) != KVC_OK)
		return KVC_NO_MEMORY;
	if (index->count >= index->bucket_count && index->bucket_count < (1u << 31))
		bucket_split(index);
	entry = kvc_index_entry(index, *id);
	head = bucket_head(index, bucket_of(index, key));
	*entry = (struct kvc_entry){
	        .key = *key,
	        .chain = *head,
	        .slab = KVC_EXTENT_NONE,
	};
	*head = *id;
	index->count++;
	return KVC_OK;
}

void kvc_index_unlink(struct kvc_index *index, uint32_t id)
{
	struct kvc_entry *entry = kvc_index_entry(index, id);
	uint32_t *link = bucket_head(index, bucket_of(index, &entry->key));

	while (*link != id) {
		KVC_INVARIANT(*link != KVC_ENTRY_NONE);
		link = &kvc_index_entry(index, *link)->chain;
	}
	*link = entry->chain;
	index->count--;
}

void kvc_index_free(struct kvc_index *index, uint32_t id)
{
	struct kvc_entry *entry = kvc_index_entry(index, id);

	memset(entry, 0, sizeof *entry);
	entry->flags = KVC_ENTRY_DEAD;
	entry->chain = index->free_entries;
	index->free_entries = id;
}
