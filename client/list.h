/* Intrusive doubly linked lists of the client library. A head is a node that no object holds; an object's
 * node that is in no list points to itself, so removing it again does nothing. No memory, no locking. */
#ifndef KVCC_LIST_H
#define KVCC_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kvcc_node {
	struct kvcc_node *next;
	struct kvcc_node *prev;
};

#define KVCC_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

static inline void kvcc_list_init(struct kvcc_node *head)
{
	head->next = head;
	head->prev = head;
}

static inline bool kvcc_list_empty(const struct kvcc_node *head)
{
	return head->next == head;
}

static inline void kvcc_list_append(struct kvcc_node *head, struct kvcc_node *node)
{
	node->next = head;
	node->prev = head->prev;
	head->prev->next = node;
	head->prev = node;
}

static inline void kvcc_list_remove(struct kvcc_node *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	kvcc_list_init(node);
}

/* The first node, taken out; NULL if there is none. */
static inline struct kvcc_node *kvcc_list_take(struct kvcc_node *head)
{
	struct kvcc_node *node = head->next;

	if (node == head)
		return NULL;
	kvcc_list_remove(node);
	return node;
}

#endif
