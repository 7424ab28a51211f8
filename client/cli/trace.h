/* A request trace: JSON lines, one request each, with
 *
 *   timestamp (milliseconds, not falling), input_length and output_length (tokens), hash_ids (one number for
 *   each block of 512 tokens of the input, in order; equal numbers are equal prefixes)
 *
 * as published with Mooncake (FAST 2025). Other members are ignored. */
#ifndef KVC_CLI_TRACE_H
#define KVC_CLI_TRACE_H

#include <stdint.h>

#define KVC_TRACE_BLOCK_TOKENS 512u

struct kvc_trace_request {
	double time_ms; /* since the first */
	uint64_t input_tokens;
	uint64_t output_tokens;
	uint32_t first; /* of its blocks, in `blocks` */
	uint32_t count;
};

struct kvc_trace {
	struct kvc_trace_request *requests;
	uint32_t *blocks; /* of all requests, numbered from 0 in order of first appearance */
	uint32_t request_count;
	uint32_t block_count;
	uint32_t distinct; /* block numbers there are */
	double duration_ms;
};

/* Returns -1, or an exit code: what is wrong was told, with the line. */
int kvc_trace_read(const char *command, const char *path, struct kvc_trace *trace);
void kvc_trace_free(struct kvc_trace *trace);

#endif
