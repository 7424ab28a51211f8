/* What the options of all commands set, and the one table that defines them: name, kind, bounds, help. */
#ifndef KVC_CLI_SETTINGS_H
#define KVC_CLI_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "kvcellar.h"

/* An option belongs to the commands of its groups. */
enum kvc_option_group {
	KVC_GROUP_COMMON = 1u << 0,
	KVC_GROUP_SHAPE = 1u << 1,    /* of the cache and its namespace */
	KVC_GROUP_SEQUENCE = 1u << 2, /* which sequence, how long */
	KVC_GROUP_PUT = 1u << 3,
	KVC_GROUP_GET = 1u << 4,
	KVC_GROUP_PLANE = 1u << 5, /* how blocks travel */
	KVC_GROUP_BENCH = 1u << 6,
	KVC_GROUP_LOOKUP = 1u << 7,
	KVC_GROUP_TENANT = 1u << 8, /* a tenant as a whole */
};

#define KVC_SETTING_UNSET UINT64_MAX

struct kvc_settings {
	const char *socket;
	uint64_t json;
	uint64_t help;
	uint64_t deadline_ms;
	const char *model;
	const char *tenant;
	const char *whole_tenant;
	uint64_t layers;
	uint64_t heads;
	uint64_t dim;
	uint64_t value_dim;
	uint64_t dtype; /* enum kvc_element */
	uint64_t block_tokens;
	uint64_t shard;
	uint64_t shards;
	const char *preset;
	const char *key_codec;
	const char *value_codec;
	uint64_t tokens;
	const char *sequence;
	const char *keys;
	const char *values;
	const char *out_keys;
	const char *out_values;
	uint64_t ack; /* enum kvc_ack */
	uint64_t ttl_ms;
	uint64_t priority; /* enum kvc_put_priority */
	uint64_t ephemeral;
	uint64_t prefetch;
	uint64_t plane; /* enum kvc_cli_plane */
	uint64_t depth;
	uint64_t blocks;
	uint64_t batch;
	uint64_t lookups;
	uint64_t bytes;
	uint64_t gpu;
	uint64_t page_tokens;
	uint64_t layout; /* enum kvc_pool_layout */
};

enum kvc_cli_plane { KVC_CLI_SHM = 1, KVC_CLI_INLINE = 2, KVC_CLI_CUDA = 3 };

/* A command, so far as its options go. */
struct kvc_usage {
	const char *name;
	unsigned groups;
	unsigned required; /* groups whose required options must be given */
	const char *what;  /* for --help */
	const char *examples;
};

/* Fill *settings from defaults and arguments. Returns -1, or an exit code: the command is over (help was
 * asked for, or an error was told). */
int kvc_settings_parse(const struct kvc_usage *usage, int argc, char **argv, struct kvc_settings *settings);

/* Print "kvcellar NAME: ..." and return KVC_EXIT_USAGE or KVC_EXIT_FAILURE. */
int kvc_usage_error(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
int kvc_failure(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Namespace options from the settings; false: an error was told. */
bool kvc_settings_namespace(const char *name, const struct kvc_settings *settings,
                            struct kvc_namespace_options *options);

#endif
