/* Intrusive doubly linked list. A node that is in no list is linked to itself. */
#ifndef KVC_LIST_H
#define KVC_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kvc_list {
	struct kvc_list *prev;
	struct kvc_list *next;
};

#define kvc_container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Over all nodes; the current one must not be removed. */
#define kvc_list_each(node, list) \
	for (struct kvc_list *node = (list)->next; node != (list); node = node->next)

/* Over all nodes; the current one may be removed. */
#define kvc_list_each_safe(node, list)                                                        \
	for (struct kvc_list *node = (list)->next, *node##_next = node->next; node != (list); \
	     node = node##_next, node##_next = node->next)

static inline void kvc_list_init(struct kvc_list *list)
{
	list->prev = list->next = list;
}

static inline bool kvc_list_empty(const struct kvc_list *list)
{
	return list->next == list;
}

/* Append at the tail. */
static inline void kvc_list_push(struct kvc_list *list, struct kvc_list *node)
{
	node->prev = list->prev;
	node->next = list;
	list->prev->next = node;
	list->prev = node;
}

static inline void kvc_list_remove(struct kvc_list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	kvc_list_init(node);
}

/* The first node, removed; NULL if the list is empty. */
static inline struct kvc_list *kvc_list_pop(struct kvc_list *list)
{
	struct kvc_list *node = list->next;

	if (node == list)
		return NULL;
	kvc_list_remove(node);
	return node;
}

/* Move all nodes of `from` to the tail of `list`. */
static inline void kvc_list_splice(struct kvc_list *list, struct kvc_list *from)
{
	if (kvc_list_empty(from))
		return;
	from->next->prev = list->prev;
	list->prev->next = from->next;
	from->prev->next = list;
	list->prev = from->prev;
	kvc_list_init(from);
}

#endif
