/* What must be there, by worker and number. */
#include "tests/fault/kill_ledger.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_AT_FIRST 4096u

static bool page_reserve(struct kill_page *page, uint64_t number)
{
	uint64_t room = page->room ? page->room : ROOM_AT_FIRST;
	uint64_t *marks;

	if (number < page->room)
		return true;
	while (room <= number)
		room *= 2;
	marks = realloc(page->marks, room * sizeof *marks);
	if (!marks)
		return false;
	memset(marks + page->room, 0, (room - page->room) * sizeof *marks);
	page->marks = marks;
	page->room = room;
	return true;
}

static void page_clear(struct kill_page *page, uint64_t number)
{
	page->marks[number] = 0;
	while (page->begin < page->end && page->marks[page->begin] == 0)
		page->begin++;
}

bool kill_ledger_take(struct kill_ledger *ledger, const struct kill_event *event)
{
	struct kill_page *page = &ledger->pages[event->id >> 32];
	uint64_t number = event->id & UINT32_MAX;

	if (!page_reserve(page, number))
		return false;
	if (event->kind != KILL_ACKED) {
		page_clear(page, number);
		return true;
	}
	page->marks[number] = event->mark + 1;
	ledger->acked++;
	if (number >= page->end)
		page->end = number + 1;
	return true;
}

bool kill_ledger_has(const struct kill_ledger *ledger, uint64_t id, uint64_t *mark)
{
	const struct kill_page *page = &ledger->pages[id >> 32];
	uint64_t number = id & UINT32_MAX;

	if (number >= page->room || page->marks[number] == 0)
		return false;
	*mark = page->marks[number] - 1;
	return true;
}

void kill_ledger_forget(struct kill_ledger *ledger, uint64_t id)
{
	page_clear(&ledger->pages[id >> 32], id & UINT32_MAX);
}

void kill_ledger_clear(struct kill_ledger *ledger)
{
	for (unsigned i = 0; i < KILL_WORKERS; i++)
		free(ledger->pages[i].marks);
	memset(ledger->pages, 0, sizeof ledger->pages);
}
