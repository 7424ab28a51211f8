/* An engine process over the fake device, and the core's end of the pair to it; a worker's device memory, as
 * the fake device has it. Everything ends the test if it cannot be had. */
#ifndef KVC_TEST_ENGINE_RIG_H
#define KVC_TEST_ENGINE_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/engine/gpu_wire.h"
#include "tests/support/temp_dir.h"

struct kvc_engine_rig {
	char dir[KVC_TEMP_DIR_BYTES]; /* KVC_FAKE_CUDA_DIR of this process and of the engine's */
	pid_t pid;
	int socket;
	int arena_fd;
	uint8_t *arena;
	struct kvc_gpu_start start; /* what is sent; change it between init and run */
	struct kvc_gpu_ready ready;
	uint32_t allocations;
	uint64_t packet[KVC_GPU_MESSAGE_BYTES / 8]; /* the last one received */
};

/* Folder and arena of `arena_bytes`. */
void kvc_engine_rig_init(struct kvc_engine_rig *rig, uint64_t arena_bytes);

/* Start the engine, without START. */
void kvc_engine_rig_spawn(struct kvc_engine_rig *rig);

/* Spawn, send START, await READY. */
void kvc_engine_rig_run(struct kvc_engine_rig *rig);

/* Close the pair, reap the engine, remove the folder. */
void kvc_engine_rig_close(struct kvc_engine_rig *rig);

/* Await the end of the process: its exit status, or 128 + signal. */
int kvc_engine_rig_ended(struct kvc_engine_rig *rig);

void kvc_engine_rig_send(struct kvc_engine_rig *rig, const void *packet, size_t bytes, const int *fds,
                         uint32_t fd_count);

/* The next packet but gauges, in rig->packet: its length; 0: the pair is closed. */
size_t kvc_engine_rig_receive(struct kvc_engine_rig *rig);

/* Await the REPLY to a message of `to` about `id`: its status. */
kvc_status kvc_engine_rig_reply(struct kvc_engine_rig *rig, uint32_t to, uint32_t id);

/* Write the faults' file. */
void kvc_engine_rig_fault(struct kvc_engine_rig *rig, const char *line);

/* --- a worker --- */

struct kvc_engine_rig_memory {
	uint8_t *data;
	uint64_t bytes;
	uint8_t handle[KVC_GPU_HANDLE_BYTES];
};

void kvc_engine_rig_alloc(struct kvc_engine_rig *rig, uint64_t bytes, struct kvc_engine_rig_memory *memory);
void kvc_engine_rig_free(struct kvc_engine_rig_memory *memory);

/* So many words of marks, all 0, and their descriptor; mapped until the end of the process. */
_Atomic uint32_t *kvc_engine_rig_marks(uint32_t words, int *fd);

/* Import it as region `id`. */
kvc_status kvc_engine_rig_import(struct kvc_engine_rig *rig, uint32_t id,
                                 const struct kvc_engine_rig_memory *memory, uint64_t offset, uint64_t bytes);

#endif
