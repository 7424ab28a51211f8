/* The configuration: what an operator can set, from a file and from the command line.
 *
 * One table (options.c) says of every option: section, name, type, default, bounds, whether a running daemon
 * takes a change, and its help text. The file, the flags, --help and --print-config all come from it. Values
 * are kept in one flat struct; nothing here allocates. Start-up and loop thread only. */
#ifndef KVC_CONF_H
#define KVC_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/kvc_status.h"

#define KVC_CONF_TEXT_BYTES  512u /* of a text value, with its end */
#define KVC_CONF_ERROR_BYTES 1024u
#define KVC_CONF_IDS_MAX     32u
#define KVC_CONF_GPUS_MAX    16u

/* With this bit, thousandths of the size of the disk tier. */
#define KVC_CONF_DWPD (1ull << 63)

/* A list of uids or gids. */
struct kvc_conf_ids {
	uint32_t count;
	uint32_t ids[KVC_CONF_IDS_MAX];
};

/* Which GPUs, by CUDA's numbers, which are below KVC_CONF_GPUS_MAX. */
struct kvc_conf_gpus {
	bool automatic; /* `auto`: the list is made by kvc_conf_resolve */
	uint32_t count;
	uint32_t ordinals[KVC_CONF_GPUS_MAX];
};

#define KVC_CONF_TENANTS_MAX 64u

/* [tenant NAME]; 0 in a number: no limit, nothing kept. */
struct kvc_conf_tenant {
	char name[65]; /* "*": tenants without a section of their own */
	uint64_t ram;
	uint64_t ram_max;
	uint64_t disk_max;
	uint64_t put_rate;
	uint64_t get_rate;
	uint64_t weight;
};

/* Every number is a uint64_t; 0 stands for `auto` where the option has it, until kvc_conf_resolve. Choices
 * are indices into the names of their row. */
struct kvc_conf {
	/* [service] */
	char socket[KVC_CONF_TEXT_BYTES]; /* "auto" until resolved */
	uint64_t socket_mode;
	struct kvc_conf_ids allow_uids;
	struct kvc_conf_ids allow_gids;
	uint64_t log_level; /* as enum kvc_log_level */
	uint64_t stop_timeout_ms;

	/* [memory] */
	uint64_t ram;
	uint64_t policy; /* as enum kvc_policy_kind */
	uint64_t tenant_idle_ms;

	/* [disk] */
	char disk[KVC_CONF_TEXT_BYTES]; /* empty: no disk tier */
	uint64_t disk_size;
	uint64_t disk_budget; /* bytes a day, 0: no limit; until resolved perhaps KVC_CONF_DWPD */
	uint64_t segment_size;
	char disk_key[KVC_CONF_TEXT_BYTES]; /* file, or credential:NAME; empty: none */
	uint64_t scrub_rate;
	char disk_health[KVC_CONF_TEXT_BYTES]; /* "auto", "none", or files */
	uint64_t disk_health_ms;
	uint64_t verify_on_start;
	uint64_t io_backend; /* as enum kvc_io_backend */
	uint64_t io_depth;

	/* [codec] */
	uint64_t threads;
	uint64_t simd; /* as enum kvc_simd */

	/* [gpu] */
	struct kvc_conf_gpus gpus;
	char gpu_engine[KVC_CONF_TEXT_BYTES]; /* "auto": to be looked for */
	uint64_t gpu_sms;
	uint64_t gpu_low_priority;
	uint64_t vram; /* of each */
	uint64_t gpu_staging;
	uint64_t gpu_hang_ms;

	/* [limits] */
	uint64_t connections;
	uint64_t connections_per_uid;
	uint64_t inflight;
	uint64_t batch;
	uint64_t operations;
	uint64_t moves;
	uint64_t namespaces;
	uint64_t regions;
	uint64_t region_max;
	uint64_t pins;
	uint64_t inline_max;
	uint64_t inline_budget;
	uint64_t deadline_default_ms;
	uint64_t deadline_max_ms;
	uint64_t stall_timeout_ms;

	/* [tenant NAME] */
	uint32_t tenant_count;
	struct kvc_conf_tenant tenants[KVC_CONF_TENANTS_MAX];
};

enum kvc_conf_action { KVC_CONF_RUN, KVC_CONF_HELP, KVC_CONF_VERSION, KVC_CONF_PRINT };

/* Defaults, then the file named by --config, then the other flags. `error` has KVC_CONF_ERROR_BYTES; on
 * KVC_INVALID (or KVC_IO: the file cannot be read) it names the place, the option, the value, what is
 * expected and the nearest valid name. *conf and *action are written on KVC_OK only. */
kvc_status kvc_conf_load(int argc, char *const argv[], struct kvc_conf *conf, enum kvc_conf_action *action,
                         char *error);

/* Replace every `auto`: the socket path by user, RAM by the memory that is available to the process, threads
 * by the affinity mask. KVC_INVALID if values contradict each other; `error` as above. */
kvc_status kvc_conf_resolve(struct kvc_conf *conf, uint64_t memory_bytes, char *error);

/* Take the live options of `fresh`, and its tenants, into `now`. Writes the names of options that differ but
 * need a restart, separated by ", ", into `ignored`, cut off at `bytes`. */
void kvc_conf_reload(struct kvc_conf *now, const struct kvc_conf *fresh, char *ignored, size_t bytes);

/* The same into one that is resolved and in force, from one that was loaded again. `ram = auto` stays what it
 * is: what is available has become less since, by just that. KVC_INVALID, and nothing is changed, if what was
 * given contradicts itself, or what would be in force does; `error` as above. */
kvc_status kvc_conf_renew(struct kvc_conf *now, const struct kvc_conf *given, uint64_t memory_bytes,
                          char *error);

/* The flags, for people. */
void kvc_conf_help(FILE *out);

/* A commented file that, read again, gives the same configuration. */
void kvc_conf_print(const struct kvc_conf *conf, FILE *out);

#endif
