/* The engine process inside: one thread owns the link to the core, the device, the lanes and what workers
 * have registered; a second one only pins the arena.
 *
 * It keeps nothing: the core decides where every byte goes, and when this process ends, however it does, the
 * core starts another. So there is no orderly end: the socket closes, or something fails, and the process is
 * gone. */
#ifndef KVC_EXECUTOR_H
#define KVC_EXECUTOR_H

#include "daemon/gpu/lane.h"
#include "daemon/gpu/link.h"

/* How the process ends. */
enum kvc_engine_exit {
	KVC_EXIT_DONE = 0,    /* the core closed the pair */
	KVC_EXIT_FAILED = 1,  /* could not start: it has said why */
	KVC_EXIT_MESSAGE = 2, /* the core said what cannot be: not of one build */
	KVC_EXIT_LOST = 3,    /* the device is lost to this process */
	KVC_EXIT_USAGE = 64,
};

#define KVC_EXECUTOR_RESULTS 512u /* of one packet */

struct kvc_executor {
	struct kvc_link link;
	uint32_t ordinal;
	struct kvc_dev *dev;
	struct kvc_pinner pinner;
	struct kvc_worker_memory memory;
	struct kvc_lane_world world;
	struct kvc_lane encode;
	struct kvc_lane decode;
	struct kvc_lane lower;
	struct kvc_list gated; /* orders that wait for their worker's mark */
	struct kvc_gpu_gauges told;
	uint64_t told_ns;
	uint32_t result_count; /* not sent yet */
	struct {
		struct kvc_gpu_header header;
		struct kvc_gpu_result results[KVC_EXECUTOR_RESULTS];
	} done;
};

/* Serve the core at the other end of `fd` until one of the two ends; returns how. */
enum kvc_engine_exit kvc_executor_run(struct kvc_executor *executor, int fd);

/* --- for the files of it --- */

/* Answer START: open everything, say READY or FAILED. */
enum kvc_engine_exit kvc_executor_start(struct kvc_executor *executor, uint32_t bytes);

/* Handle the packet in the link, of `bytes`. KVC_BAD_MESSAGE: end. */
kvc_status kvc_executor_message(struct kvc_executor *executor, uint32_t bytes);

/* A job has ended: tell the core, with the next packet. */
void kvc_executor_result(void *context, struct kvc_order_job *job, kvc_status status, uint64_t length);
kvc_status kvc_executor_results_send(struct kvc_executor *executor);

/* Orders whose mark has come go to their lanes; true if one did. */
bool kvc_executor_gates_poll(struct kvc_executor *executor);

uint64_t kvc_executor_now_ns(void);

#endif
