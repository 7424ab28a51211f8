/* Where the scripted engine complains: a text at the end of the arena. */
#ifndef KVC_TEST_ENGINE_SCRIPT_H
#define KVC_TEST_ENGINE_SCRIPT_H

#define SCRIPT_COMPLAINT_BYTES 256u

#endif
