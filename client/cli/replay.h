/* One replay: a trace against a RAM tier with one of the daemon's policies, and a disk tier with its
 * admission. What is simulated is which blocks are where; the deciding code is the daemon's own.
 *
 * A request gets its longest prefix that is stored, tells the policy what was used (last block first, or
 * first block first, as the policy wants it), and puts the rest. What was found on disk goes into RAM, or
 * not, as the setup says. All blocks take the same space, but admission knows of the last one of a prompt
 * whether it is a part. A block that leaves RAM is written to disk if it was admitted and is not there yet.
 * The disk is a ring: the oldest write goes first; a block that was used since and is still in RAM is written
 * again. */
#ifndef KVC_CLI_REPLAY_H
#define KVC_CLI_REPLAY_H

#include "client/cli/trace.h"
#include "daemon/policy/policy.h"

/* What becomes of a block that was found on disk. */
enum kvc_replay_promote {
	KVC_PROMOTE_ALWAYS, /* it is in RAM from then on: what the daemon does */
	KVC_PROMOTE_PREFIX, /* if the blocks before it are, and none of the request's own goes for it */
	KVC_PROMOTE_AGAIN,  /* if it was found there before, since it was written */
	KVC_PROMOTE_NEVER,
};

struct kvc_replay_setup {
	enum kvc_policy_kind policy;
	enum kvc_replay_promote promote;
	uint64_t block_bytes;
	uint64_t ram_bytes;
	uint64_t disk_bytes;   /* 0: no disk tier */
	uint64_t budget_bytes; /* that may be written to disk in a day; 0: no limit */
};

struct kvc_replay_result {
	uint64_t blocks;   /* asked for */
	uint64_t hits_ram; /* of leading blocks */
	uint64_t hits_disk;
	uint64_t ram_peak; /* bytes */
	uint64_t disk_peak;
	uint64_t written; /* bytes, to disk */
	uint64_t read;    /* bytes, from disk */
};

/* false: out of memory */
bool kvc_replay_run(const struct kvc_trace *trace, const struct kvc_replay_setup *setup,
                    struct kvc_replay_result *result);

#endif
