/* Inside daemon/conf: the table of options and what works on one row of it. */
#ifndef KVC_CONF_TABLE_H
#define KVC_CONF_TABLE_H

#include "daemon/conf/conf.h"

enum kvc_option_type {
	KVC_OPTION_SIZE,   /* bytes, with suffix K, M, G or T (powers of 1024) */
	KVC_OPTION_COUNT,  /* a decimal number */
	KVC_OPTION_MS,     /* milliseconds, a decimal number */
	KVC_OPTION_MODE,   /* permission bits, octal */
	KVC_OPTION_TEXT,   /* a path or name */
	KVC_OPTION_CHOICE, /* one of a few names */
	KVC_OPTION_BOOL,   /* yes or no */
	KVC_OPTION_USERS,  /* numbers or names of users, separated by commas or blanks */
	KVC_OPTION_GROUPS, /* the same of groups */
	KVC_OPTION_WEAR,   /* bytes a day, or drive writes a day ("0.5dwpd") */
	KVC_OPTION_GPUS,   /* none, auto, or numbers */
};

struct kvc_option {
	const char *section;
	const char *name; /* in the file; with "--" in front, on the command line */
	enum kvc_option_type type;
	bool automatic; /* `auto` is allowed */
	bool live;      /* a running daemon takes a change */
	size_t offset;  /* of the value in struct kvc_conf, or kvc_conf_tenant */
	uint64_t min;   /* numbers */
	uint64_t max;
	const char *initial;        /* as it stands in the file */
	const char *const *choices; /* NULL-terminated */
	const char *help;
};

extern const struct kvc_option kvc_options[];
extern const unsigned kvc_option_count;

/* The options of a tenant: their values stand in a struct kvc_conf_tenant. */
#define KVC_TENANT_SECTION "tenant"
extern const struct kvc_option kvc_tenant_options[];
extern const unsigned kvc_tenant_option_count;

/* `values`: the struct that has the option's value. */
static inline void *kvc_option_value(const struct kvc_option *option, void *values)
{
	return (char *)values + option->offset;
}

static inline const void *kvc_option_value_const(const struct kvc_option *option, const void *values)
{
	return (const char *)values + option->offset;
}

/* Bytes of the value. */
size_t kvc_option_value_bytes(const struct kvc_option *option);

/* By name, NULL if there is none. */
const struct kvc_option *kvc_option_find(const char *name);
const struct kvc_option *kvc_tenant_option_find(const char *name);

/* Whether a section is one of a tenant; *name is the tenant's, inside it, unchecked. */
bool kvc_tenant_section(const char *section, const char **name);

/* A tenant with the defaults. NULL: `error` (of `bytes`) says why not. */
struct kvc_conf_tenant *kvc_tenant_add(struct kvc_conf *conf, const char *name, char *error, size_t bytes);

/* Contradictions between tenants' options, and with `ram`, which is resolved. */
kvc_status kvc_tenants_check(const struct kvc_conf *conf, char *error, size_t bytes);

/* The option whose name is the fewest edits away, NULL if none is near. */
const char *kvc_option_nearest(const char *name);
const char *kvc_tenant_option_nearest(const char *name);
const char *kvc_section_nearest(const char *name);
bool kvc_section_known(const char *name);

/* Parse text into the option's value. KVC_INVALID: `expected` (of `bytes`) says what would be right. */
kvc_status kvc_option_parse(const struct kvc_option *option, const char *text, void *values, char *expected,
                            size_t bytes);

/* Write the value as kvc_option_parse reads it. */
void kvc_option_format(const struct kvc_option *option, const void *values, char *text, size_t bytes);

/* What a value must be: "a size from 1M to 4T, or auto". */
void kvc_option_expect(const struct kvc_option *option, char *text, size_t bytes);

/* The list of GPUs, from text and to text. */
bool kvc_conf_gpus_parse(const char *text, struct kvc_conf_gpus *gpus);
void kvc_conf_gpus_format(const struct kvc_conf_gpus *gpus, char *text, size_t bytes);

/* Fill the list by the devices in a folder (/dev), as many as $CUDA_VISIBLE_DEVICES (NULL: not set) allows.
 */
void kvc_conf_gpus_detect(const char *folder, const char *visible, struct kvc_conf_gpus *gpus);

/* Where values were set: one bit an option, to find duplicates. */
struct kvc_option_seen {
	bool of[64];
};

/* Read a file into *conf. KVC_IO or KVC_INVALID with `error` (KVC_CONF_ERROR_BYTES). */
kvc_status kvc_conf_read_file(const char *path, struct kvc_conf *conf, char *error);

#endif
