/* A session as bytes: the frames that a client would send, one after the other, to be cut anywhere.
 *
 *   hello, open, attach (with a descriptor), put of two blocks in shared memory, put of one inline,
 *   get into shared memory, drop of another key
 *
 * Blocks have one token, so the length of the session does not depend on their ids. Allocation failures
 * abort. */
#ifndef KVC_TEST_RAW_SESSION_H
#define KVC_TEST_RAW_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/sample.h"

#define RAW_FRAMES 7u
#define RAW_BLOCKS 3u /* put: two by shared memory, one inline */

struct raw_frame {
	uint8_t *bytes;
	size_t length;
	bool has_descriptor;
	unsigned puts; /* blocks that are stored when the frame has arrived */
};

struct raw_session {
	struct raw_frame frames[RAW_FRAMES];
	size_t length; /* of all frames */
	int memfd;
	uint8_t *memory;
	uint64_t ids[RAW_BLOCKS]; /* in the order of the puts */
};

/* The namespace that it opens: init fills *space. */
void raw_space_init(struct kvc_sample_space *space);

void raw_session_open(struct raw_session *session, const struct kvc_sample_space *space, uint64_t first_id);
void raw_session_close(struct raw_session *session);

/* Blocks whose put lies wholly in the first `bytes` bytes. */
unsigned raw_session_puts(const struct raw_session *session, size_t bytes);

/* Bytes of the first `frames` frames. */
size_t raw_session_boundary(const struct raw_session *session, unsigned frames);

/* Connect; -1 and errno on failure. */
int raw_connect(const char *path);

/* Send the first `bytes` bytes. False if the other side has closed. */
bool raw_session_send(const struct raw_session *session, int fd, size_t bytes);

/* Read until the replies of all frames within the first `bytes` bytes are there: false if the connection
 * ended before, or after timeout_ms. */
bool raw_session_await(const struct raw_session *session, int fd, size_t bytes, unsigned timeout_ms);

#endif
