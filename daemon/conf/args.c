/* The command line: every option of the table as --name VALUE or --name=VALUE (a bool also alone), and four
 * flags of its own. */
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/conf/table.h"

struct args {
	int count;
	char *const *texts;
	int next;
	const char *config; /* of --config */
	enum kvc_conf_action action;
	struct kvc_option_seen seen;
	struct kvc_conf *conf; /* NULL in the pass that looks for --config only */
	char *error;
};

/* Flags that are no options of the file; value: it has one. */
struct own_flag {
	const char *name;
	bool value;
	enum kvc_conf_action action;
};

static const struct own_flag own_flags[] = {
        {"config", true, KVC_CONF_RUN},
        {"help", false, KVC_CONF_HELP},
        {"version", false, KVC_CONF_VERSION},
        {"print-config", false, KVC_CONF_PRINT},
};

static kvc_status usage(struct args *args, const char *flag, const char *what)
{
	snprintf(args->error, KVC_CONF_ERROR_BYTES, "%s: %s (see --help)", flag, what);
	return KVC_INVALID;
}

/* "--name", or "--name=value" cut in two. */
struct flag {
	char name[64];
	const char *value; /* NULL: not given with '=' */
};

static kvc_status flag_split(struct args *args, const char *text, struct flag *flag)
{
	const char *equals = strchr(text, '=');
	size_t bytes = equals ? (size_t)(equals - text) : strlen(text);

	if (strncmp(text, "--", 2) || bytes < 3 || bytes - 2 >= sizeof flag->name)
		return usage(args, text, "not a flag: flags are --name VALUE");
	memset(flag, 0, sizeof *flag);
	memcpy(flag->name, text + 2, bytes - 2);
	flag->value = equals ? equals + 1 : NULL;
	return KVC_OK;
}

static kvc_status value_take(struct args *args, struct flag *flag)
{
	if (flag->value)
		return KVC_OK;
	if (args->next == args->count)
		return usage(args, flag->name, "a value is missing");
	flag->value = args->texts[args->next++];
	return KVC_OK;
}

static const struct own_flag *own_find(const char *name)
{
	for (unsigned i = 0; i < sizeof own_flags / sizeof own_flags[0]; i++) {
		if (strcmp(own_flags[i].name, name) == 0)
			return &own_flags[i];
	}
	return NULL;
}

static kvc_status own_take(struct args *args, const struct own_flag *own, struct flag *flag)
{
	if (!own->value && flag->value)
		return usage(args, flag->name, "takes no value");
	if (!own->value) {
		args->action = own->action;
		return KVC_OK;
	}
	if (args->config && !args->conf)
		return usage(args, flag->name, "given twice");
	if (value_take(args, flag) != KVC_OK)
		return KVC_INVALID;
	args->config = flag->value;
	return KVC_OK;
}

static kvc_status unknown(struct args *args, const struct flag *flag)
{
	const char *near = kvc_option_nearest(flag->name);

	snprintf(args->error, KVC_CONF_ERROR_BYTES, "unknown flag '--%s'%s%s%s (see --help)", flag->name,
	         near ? ", did you mean '--" : "", near ? near : "", near ? "'?" : "");
	return KVC_INVALID;
}

static kvc_status option_take(struct args *args, const struct kvc_option *option, struct flag *flag)
{
	bool *seen = &args->seen.of[option - kvc_options];
	char expected[256];

	if (option->type == KVC_OPTION_BOOL && !flag->value)
		flag->value = "yes";
	if (value_take(args, flag) != KVC_OK)
		return KVC_INVALID;
	if (!args->conf)
		return KVC_OK;
	if (*seen)
		return usage(args, flag->name, "given twice");
	*seen = true;
	if (kvc_option_parse(option, flag->value, args->conf, expected, sizeof expected) == KVC_OK)
		return KVC_OK;
	snprintf(args->error, KVC_CONF_ERROR_BYTES, "--%s: '%s' is not %s", flag->name, flag->value,
	         expected);
	return KVC_INVALID;
}

static kvc_status flag_take(struct args *args)
{
	const char *text = args->texts[args->next++];
	const struct kvc_option *option;
	const struct own_flag *own;
	struct flag flag;

	if (flag_split(args, text, &flag) != KVC_OK)
		return KVC_INVALID;
	own = own_find(flag.name);
	if (own)
		return own_take(args, own, &flag);
	option = kvc_option_find(flag.name);
	return option ? option_take(args, option, &flag) : unknown(args, &flag);
}

static kvc_status args_walk(struct args *args)
{
	kvc_status status = KVC_OK;

	args->next = 1;
	while (status == KVC_OK && args->next < args->count)
		status = flag_take(args);
	return status;
}

static void defaults(struct kvc_conf *conf)
{
	char expected[256];

	memset(conf, 0, sizeof *conf);
	for (unsigned i = 0; i < kvc_option_count; i++)
		KVC_INVARIANT(kvc_option_parse(&kvc_options[i], kvc_options[i].initial, conf, expected,
		                               sizeof expected) == KVC_OK);
}

kvc_status kvc_conf_load(int argc, char *const argv[], struct kvc_conf *conf, enum kvc_conf_action *action,
                         char *error)
{
	struct args args = {.count = argc, .texts = argv, .error = error};
	struct kvc_conf fresh;
	kvc_status status;

	defaults(&fresh);
	status = args_walk(&args);
	if (status == KVC_OK && args.config && args.action != KVC_CONF_HELP &&
	    args.action != KVC_CONF_VERSION)
		status = kvc_conf_read_file(args.config, &fresh, error);
	args.conf = &fresh;
	if (status == KVC_OK)
		status = args_walk(&args);
	if (status != KVC_OK)
		return status;
	*conf = fresh;
	*action = args.action;
	return KVC_OK;
}
