/* The kill loop's oracle: which blocks must be there. One thread at a time. */
#ifndef KVC_TEST_KILL_LEDGER_H
#define KVC_TEST_KILL_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/fault/kill_world.h"

/* Blocks of one worker, by number. */
struct kill_page {
	uint64_t *marks; /* 0: need not be there. else 1 + the highest epoch on disk before its put */
	uint64_t room;
	uint64_t begin; /* numbers below need not be there */
	uint64_t end;   /* and none from here on */
};

struct kill_ledger {
	struct kill_page pages[KILL_WORKERS];
	uint64_t acked;
};

/* Take KILL_ACKED or KILL_DROPPING. False: no memory. */
bool kill_ledger_take(struct kill_ledger *ledger, const struct kill_event *event);

/* Whether the block was acknowledged and has not begun to be dropped; *mark is then the highest epoch before
 * its put. */
bool kill_ledger_has(const struct kill_ledger *ledger, uint64_t id, uint64_t *mark);

/* The block is gone, and that was allowed. */
void kill_ledger_forget(struct kill_ledger *ledger, uint64_t id);

/* Forget all. */
void kill_ledger_clear(struct kill_ledger *ledger);

#endif
