/* A daemon for tests of libkvcellar-cuda, in place of libkvcellar's functions: it keeps images by key,
 * answers when it is asked for completions, and does as it is told. One client. */
#ifndef KVC_TEST_FAKE_STORE_H
#define KVC_TEST_FAKE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "client/kvcellar.h"

struct fake_store {
	bool silent;                       /* does not answer: requests stay with it */
	bool fenced;                       /* requests on the memory fail */
	kvc_status submit;                 /* of every submit, if not KVC_OK */
	kvc_status answer;                 /* of every request, if not KVC_OK */
	uint32_t batch;                    /* limit that it announces */
	uint32_t clients;                  /* that exist */
	uint32_t pending;                  /* requests */
	uint32_t puts, gets;               /* blocks */
	struct kvc_transfer last_put;      /* what its options were */
	uint32_t renewals;                 /* of the memory */
	bool damage;                       /* what it gives has a bit flipped in its metadata */
	uint8_t *(*swap)(uint64_t *bytes); /* what it gives instead; NULL: nothing */
};

extern struct fake_store fake_store;

void fake_store_clear(void);
/* The image of that key; NULL: none. */
const uint8_t *fake_store_image(const char *key, uint64_t *bytes);

#endif
