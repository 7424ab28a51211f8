/* Doubly linked by ids. See recency.h. */
#include "daemon/cache/recency.h"

#include "daemon/base/check.h"

void kvc_recency_init(struct kvc_recency *list)
{
	*list = (struct kvc_recency){.coldest = KVC_ENTRY_NONE, .hottest = KVC_ENTRY_NONE};
}

/* Link between two neighbours, either of which may be none. */
static void link_between(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint32_t colder,
                         uint32_t hotter)
{
	struct kvc_entry *entry = kvc_index_entry(index, id);

	KVC_PRE(!(entry->flags & KVC_ENTRY_LISTED));
	entry->colder = colder;
	entry->hotter = hotter;
	entry->flags |= KVC_ENTRY_LISTED;
	if (colder == KVC_ENTRY_NONE)
		list->coldest = id;
	else
		kvc_index_entry(index, colder)->hotter = id;
	if (hotter == KVC_ENTRY_NONE)
		list->hottest = id;
	else
		kvc_index_entry(index, hotter)->colder = id;
}

void kvc_recency_push_hot(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes)
{
	link_between(list, index, id, list->hottest, KVC_ENTRY_NONE);
	list->count++;
	list->bytes += bytes;
}

void kvc_recency_push_cold(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes)
{
	link_between(list, index, id, KVC_ENTRY_NONE, list->coldest);
	list->count++;
	list->bytes += bytes;
}

void kvc_recency_push_after(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes,
                            uint32_t anchor)
{
	link_between(list, index, id, kvc_index_entry(index, anchor)->colder, anchor);
	list->count++;
	list->bytes += bytes;
}

void kvc_recency_remove(struct kvc_recency *list, struct kvc_index *index, uint32_t id, uint64_t bytes)
{
	struct kvc_entry *entry = kvc_index_entry(index, id);

	KVC_PRE(entry->flags & KVC_ENTRY_LISTED && list->count > 0 && list->bytes >= bytes);
	if (entry->colder == KVC_ENTRY_NONE)
		list->coldest = entry->hotter;
	else
		kvc_index_entry(index, entry->colder)->hotter = entry->hotter;
	if (entry->hotter == KVC_ENTRY_NONE)
		list->hottest = entry->colder;
	else
		kvc_index_entry(index, entry->hotter)->colder = entry->colder;
	entry->colder = entry->hotter = KVC_ENTRY_NONE;
	entry->flags &= (uint8_t)~KVC_ENTRY_LISTED;
	list->count--;
	list->bytes -= bytes;
}
