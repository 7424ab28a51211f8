/* A page of the disk tier as a later version might write it. */
#ifndef KVC_TEST_SUPER_VERSION_H
#define KVC_TEST_SUPER_VERSION_H

#include <stdint.h>

#include "daemon/tier/segment.h"

/* Turn a sound page into one of another format version, sound too. */
void kvc_test_super_version(uint8_t page[KVC_PAGE_BYTES], uint32_t version);

#endif
