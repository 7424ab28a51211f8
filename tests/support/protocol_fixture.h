/* What the tests of protocol faults share: one daemon a test, and clients of it. Everything here asserts. */
#ifndef KVC_TEST_PROTOCOL_FIXTURE_H
#define KVC_TEST_PROTOCOL_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "tests/support/fault_check.h"

extern struct kvc_test_daemon kvc_test_now;
extern struct kvc_test_fault kvc_test_fault_now;

/* The usual options: 32 MiB, inline payloads up to 1 MiB. */
extern const char *const kvc_test_usual[];

/* Start the daemon and note how things are: 0. For cmocka's set-up. */
int kvc_test_start_with(const char *const *options);
int kvc_test_setup(void **state);
int kvc_test_teardown(void **state);

/* A client that has said hello. */
int kvc_test_client_now(void);

/* The daemon ends the connection; closes our side. */
void kvc_test_assert_eof(int fd);
void kvc_test_assert_pings(int fd);

kvc_status kvc_test_hello(int fd, uint32_t min, uint32_t max);

/* A put of one block with key "key" and 16 tokens from region 1 of namespace 1. */
Kvcellar__Put kvc_test_put_of(Kvcellar__Block **blocks, Kvcellar__Block *block);

/* The put is refused: with this status, this counter, and this in the text. */
void kvc_test_put_refused(int fd, const Kvcellar__Put *put, kvc_status expected, const char *counter,
                          const char *detail);

/* The same put on the inline plane with its payload, as bytes. */
size_t kvc_test_inline_put(uint8_t *out);

int kvc_test_sealed_memfd(uint64_t bytes, int seals);
size_t kvc_test_attach_frame(uint32_t id, uint64_t bytes, unsigned flags, uint8_t *out);
kvc_status kvc_test_attach(int fd, uint32_t id, int memfd, uint64_t bytes, struct kvc_test_reply *reply);

/* A client with namespace 1 and a region of 1 MiB as region 1. */
int kvc_test_client_with_region(int *memfd);

#endif
