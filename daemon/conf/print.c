/* The table, for people: --help and --print-config. */
#include <string.h>

#include "daemon/conf/table.h"

enum { WIDTH = 78 };

/* Words of `text` in lines of at most WIDTH columns, each with the prefix. */
static void wrapped(FILE *out, const char *prefix, const char *text)
{
	while (*text) {
		size_t room = WIDTH - strlen(prefix);
		size_t bytes = strlen(text);

		if (bytes > room) {
			for (bytes = room; bytes && text[bytes] != ' '; bytes--)
				;
			bytes = bytes ? bytes : room;
		}
		fprintf(out, "%s%.*s\n", prefix, (int)bytes, text);
		text += bytes;
		text += strspn(text, " ");
	}
}

static const char *const metavars[] = {
        [KVC_OPTION_SIZE] = "SIZE",   [KVC_OPTION_COUNT] = "N",        [KVC_OPTION_MS] = "MS",
        [KVC_OPTION_MODE] = "MODE",   [KVC_OPTION_TEXT] = "PATH",      [KVC_OPTION_CHOICE] = "NAME",
        [KVC_OPTION_BOOL] = "yes|no", [KVC_OPTION_USERS] = "USER,...", [KVC_OPTION_GROUPS] = "GROUP,...",
        [KVC_OPTION_WEAR] = "WEAR",   [KVC_OPTION_GPUS] = "GPU,...",
};

static void option_help(FILE *out, const struct kvc_option *option)
{
	char expected[256];

	bool flag = strcmp(option->section, KVC_TENANT_SECTION) != 0;

	fprintf(out, "  %s%s %s\n", flag ? "--" : "", option->name, metavars[option->type]);
	wrapped(out, "        ", option->help);
	kvc_option_expect(option, expected, sizeof expected);
	if (option->type != KVC_OPTION_TEXT)
		fprintf(out, "        Value: %s.\n", expected);
	fprintf(out, "        Default: %s.\n", *option->initial ? option->initial : "none");
}

void kvc_conf_help(FILE *out)
{
	const char *section = "";

	fputs("Usage: kvcellard [--config FILE] [--OPTION VALUE]...\n"
	      "Stores KV-cache blocks of language models for the inference workers of this machine.\n\n"
	      "  --config FILE    read options from FILE first\n"
	      "  --print-config   print the configuration as a file, and exit\n"
	      "  --help           print this, and exit\n"
	      "  --version        print the version, and exit\n",
	      out);
	for (unsigned i = 0; i < kvc_option_count; i++) {
		if (strcmp(section, kvc_options[i].section))
			fprintf(out, "\n[%s]\n", kvc_options[i].section);
		section = kvc_options[i].section;
		option_help(out, &kvc_options[i]);
	}
	fputs("\n[tenant NAME], in the file only\n", out);
	for (unsigned i = 0; i < kvc_tenant_option_count; i++)
		option_help(out, &kvc_tenant_options[i]);
}

static void option_print(FILE *out, const struct kvc_option *option, const void *values, const char *comment)
{
	char text[KVC_CONF_TEXT_BYTES];

	fputc('\n', out);
	wrapped(out, "# ", option->help);
	kvc_option_expect(option, text, sizeof text);
	if (option->type != KVC_OPTION_TEXT)
		fprintf(out, "# Value: %s.\n", text);
	if (!option->live)
		fputs("# A change needs a restart.\n", out);
	kvc_option_format(option, values, text, sizeof text);
	fprintf(out, "%s%s =%s%s\n", comment, option->name, *text ? " " : "", text);
}

static void tenant_print(const struct kvc_conf_tenant *tenant, FILE *out)
{
	char text[KVC_CONF_TEXT_BYTES];

	fprintf(out, "\n[" KVC_TENANT_SECTION " %s]\n", tenant->name);
	for (unsigned i = 0; i < kvc_tenant_option_count; i++) {
		kvc_option_format(&kvc_tenant_options[i], tenant, text, sizeof text);
		fprintf(out, "%s = %s\n", kvc_tenant_options[i].name, text);
	}
}

/* What there is to be set, as a comment, then what is set. */
static void tenants_print(const struct kvc_conf *conf, FILE *out)
{
	struct kvc_conf example = {.tenant_count = 0};
	char error[256];

	fputs("\n# [tenant NAME]: what one tenant may; [tenant *]: each one without a section of its own. No "
	      "flags.\n",
	      out);
	(void)kvc_tenant_add(&example, "*", error, sizeof error);
	for (unsigned i = 0; i < kvc_tenant_option_count; i++)
		option_print(out, &kvc_tenant_options[i], &example.tenants[0], "# ");
	for (uint32_t i = 0; i < conf->tenant_count; i++)
		tenant_print(&conf->tenants[i], out);
}

void kvc_conf_print(const struct kvc_conf *conf, FILE *out)
{
	const char *section = "";

	fputs("# Configuration of kvcellard. Options without a note are taken over on reload (SIGHUP).\n"
	      "# Each is also a flag: --name VALUE, which wins over this file.\n",
	      out);
	for (unsigned i = 0; i < kvc_option_count; i++) {
		if (strcmp(section, kvc_options[i].section))
			fprintf(out, "\n[%s]\n", kvc_options[i].section);
		section = kvc_options[i].section;
		option_print(out, &kvc_options[i], conf, "");
	}
	tenants_print(conf, out);
}
