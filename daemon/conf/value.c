/* One value: from text, to text, and what it must be. Pure, but for the system's names of users and groups.
 */
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/checked.h"
#include "daemon/conf/table.h"

static const char suffixes[] = "KMGT";

static void size_format(uint64_t bytes, char *text, size_t room)
{
	int power = -1;

	while (bytes && bytes % 1024 == 0 && power < 3) {
		bytes /= 1024;
		power++;
	}
	if (power < 0)
		snprintf(text, room, "%llu", (unsigned long long)bytes);
	else
		snprintf(text, room, "%llu%c", (unsigned long long)bytes, suffixes[power]);
}

/* "0.5dwpd" */
static void dwpd_format(uint64_t thousandths, char *text, size_t room)
{
	char part[8] = "";

	if (thousandths % 1000) {
		size_t used = (size_t)snprintf(part, sizeof part, ".%03u", (unsigned)(thousandths % 1000));

		while (part[used - 1] == '0')
			part[--used] = 0;
	}
	snprintf(text, room, "%llu%sdwpd", (unsigned long long)(thousandths / 1000), part);
}

static void number_format(const struct kvc_option *option, uint64_t value, char *text, size_t room)
{
	if (option->type == KVC_OPTION_WEAR && value & KVC_CONF_DWPD)
		dwpd_format(value & ~KVC_CONF_DWPD, text, room);
	else if (option->type == KVC_OPTION_SIZE || option->type == KVC_OPTION_WEAR)
		size_format(value, text, room);
	else if (option->type == KVC_OPTION_MODE)
		snprintf(text, room, "0%03o", (unsigned)value);
	else
		snprintf(text, room, "%llu", (unsigned long long)value);
}

/* ---- what is expected ---------------------------------------------------------------------- */

static void expect_number(const struct kvc_option *option, char *text, size_t room)
{
	static const char *const kinds[] = {
	        [KVC_OPTION_SIZE] = "a size (with K, M, G or T)",
	        [KVC_OPTION_COUNT] = "a number",
	        [KVC_OPTION_MS] = "a number of milliseconds",
	        [KVC_OPTION_MODE] = "an octal mode",
	        [KVC_OPTION_WEAR] =
	                "drive writes a day from 0.001dwpd to 1000dwpd, or bytes a day (with K, M, G or "
	                "T)",
	};
	char min[32];
	char max[32];

	number_format(option, option->min, min, sizeof min);
	number_format(option, option->max, max, sizeof max);
	snprintf(text, room, "%s from %s to %s%s", kinds[option->type], min, max,
	         option->automatic ? ", or auto" : "");
}

static void expect_choice(const struct kvc_option *option, char *text, size_t room)
{
	size_t used = (size_t)snprintf(text, room, "one of");

	for (unsigned i = 0; option->choices[i] && used < room; i++)
		used += (size_t)snprintf(text + used, room - used, "%s %s", i ? "," : "", option->choices[i]);
}

void kvc_option_expect(const struct kvc_option *option, char *text, size_t room)
{
	switch (option->type) {
	case KVC_OPTION_CHOICE:
		expect_choice(option, text, room);
		return;
	case KVC_OPTION_BOOL:
		snprintf(text, room, "yes or no");
		return;
	case KVC_OPTION_TEXT:
		snprintf(text, room, "at most %u printable bytes (a comment after a value starts with ' ;')",
		         KVC_CONF_TEXT_BYTES - 1);
		return;
	case KVC_OPTION_USERS:
	case KVC_OPTION_GROUPS:
		snprintf(text, room, "at most %u numbers or names of %s, separated by commas",
		         KVC_CONF_IDS_MAX, option->type == KVC_OPTION_USERS ? "users" : "groups");
		return;
	case KVC_OPTION_GPUS:
		snprintf(text, room, "none, auto, or numbers from 0 to %u, separated by commas",
		         KVC_CONF_GPUS_MAX - 1);
		return;
	default:
		expect_number(option, text, room);
	}
}

/* ---- from text ----------------------------------------------------------------------------- */

/* Digits of `base` up to the first other character. False: none, or too large. */
static bool digits_parse(const char **cursor, unsigned base, uint64_t *value)
{
	const char *start = *cursor;
	uint64_t sum = 0;

	for (; **cursor >= '0' && **cursor < (char)('0' + base); (*cursor)++) {
		if (!kvc_mul_u64(sum, base, &sum) || !kvc_add_u64(sum, (uint64_t)(**cursor - '0'), &sum))
			return false;
	}
	if (*cursor == start)
		return false;
	*value = sum;
	return true;
}

/* Multiply by the suffix, if there is one. */
static bool suffix_parse(const char **cursor, uint64_t *value)
{
	const char *found = **cursor ? strchr(suffixes, **cursor) : NULL;

	if (!found)
		return true;
	(*cursor)++;
	return kvc_mul_u64(*value, 1ull << (10 * (found - suffixes + 1)), value);
}

static bool number_parse(const struct kvc_option *option, const char *text, uint64_t *value)
{
	uint64_t number;

	if (option->automatic && strcmp(text, "auto") == 0) {
		*value = 0;
		return true;
	}
	if (!digits_parse(&text, option->type == KVC_OPTION_MODE ? 8 : 10, &number))
		return false;
	if ((option->type == KVC_OPTION_SIZE || option->type == KVC_OPTION_WEAR) &&
	    !suffix_parse(&text, &number))
		return false;
	if (*text || number < option->min || number > option->max)
		return false;
	*value = number;
	return true;
}

/* Up to three digits behind the point. False: not of this form. */
static bool dwpd_parse(const char *text, uint64_t *value)
{
	uint64_t thousandths;
	uint64_t unit = 1000;

	if (!digits_parse(&text, 10, &thousandths) || thousandths > 1000)
		return false;
	thousandths *= unit;
	if (*text == '.')
		for (text++; *text >= '0' && *text <= '9' && unit > 1; text++) {
			unit /= 10;
			thousandths += (uint64_t)(*text - '0') * unit;
		}
	if (strcmp(text, "dwpd") != 0 || !thousandths || thousandths > 1000000)
		return false;
	*value = thousandths | KVC_CONF_DWPD;
	return true;
}

static bool choice_parse(const char *const *choices, const char *text, uint64_t *value)
{
	for (unsigned i = 0; choices[i]; i++) {
		if (strcmp(choices[i], text))
			continue;
		*value = i;
		return true;
	}
	return false;
}

static bool bool_parse(const char *text, uint64_t *value)
{
	static const char *const names[] = {"no", "yes", NULL};

	return choice_parse(names, text, value);
}

/* " #" is refused: whoever writes it means a comment, and would get a strange path. " ;" begins a comment in
 * the file, so that it could not be printed and read again. */
static bool text_parse(const char *text, char *value)
{
	size_t bytes = strlen(text);

	if (bytes >= KVC_CONF_TEXT_BYTES || strstr(text, " #") || strstr(text, " ;"))
		return false;
	for (size_t i = 0; i < bytes; i++) {
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
			return false;
	}
	memcpy(value, text, bytes + 1);
	return true;
}

/* A number, or a name that the system knows. (uint32_t)-1 is no id: the kernel uses it for "unchanged". */
static bool id_parse(const struct kvc_option *option, const char *text, uint32_t *id)
{
	const struct passwd *user;
	const struct group *group;
	uint64_t number;

	if (digits_parse(&text, 10, &number)) {
		*id = (uint32_t)number;
		return !*text && number < UINT32_MAX;
	}
	if (option->type == KVC_OPTION_USERS) {
		user = getpwnam(text);
		*id = user ? user->pw_uid : 0;
		return user != NULL;
	}
	group = getgrnam(text);
	*id = group ? group->gr_gid : 0;
	return group != NULL;
}

static bool ids_parse(const struct kvc_option *option, const char *text, struct kvc_conf_ids *value)
{
	static const char separators[] = ", ";
	struct kvc_conf_ids ids = {0};
	char name[64];

	for (text += strspn(text, separators); *text; text += strspn(text, separators)) {
		size_t bytes = strcspn(text, separators);

		if (ids.count == KVC_CONF_IDS_MAX || bytes >= sizeof name)
			return false;
		memcpy(name, text, bytes);
		name[bytes] = 0;
		if (!id_parse(option, name, &ids.ids[ids.count++]))
			return false;
		text += bytes;
	}
	*value = ids;
	return true;
}

static bool value_parse(const struct kvc_option *option, const char *text, void *value)
{
	switch (option->type) {
	case KVC_OPTION_CHOICE:
		return choice_parse(option->choices, text, value);
	case KVC_OPTION_BOOL:
		return bool_parse(text, value);
	case KVC_OPTION_TEXT:
		return text_parse(text, value);
	case KVC_OPTION_USERS:
	case KVC_OPTION_GROUPS:
		return ids_parse(option, text, value);
	case KVC_OPTION_GPUS:
		return kvc_conf_gpus_parse(text, value);
	case KVC_OPTION_WEAR:
		return dwpd_parse(text, value) || number_parse(option, text, value);
	default:
		return number_parse(option, text, value);
	}
}

kvc_status kvc_option_parse(const struct kvc_option *option, const char *text, void *values, char *expected,
                            size_t bytes)
{
	if (value_parse(option, text, kvc_option_value(option, values)))
		return KVC_OK;
	kvc_option_expect(option, expected, bytes);
	return KVC_INVALID;
}

/* ---- to text ------------------------------------------------------------------------------- */

static void ids_format(const struct kvc_conf_ids *ids, char *text, size_t room)
{
	size_t used = 0;

	text[0] = 0;
	for (uint32_t i = 0; i < ids->count && used < room; i++)
		used += (size_t)snprintf(text + used, room - used, "%s%u", i ? "," : "", ids->ids[i]);
}

void kvc_option_format(const struct kvc_option *option, const void *values, char *text, size_t room)
{
	const void *value = kvc_option_value_const(option, values);
	uint64_t number = 0;

	if (option->type == KVC_OPTION_TEXT) {
		snprintf(text, room, "%s", (const char *)value);
		return;
	}
	if (option->type == KVC_OPTION_USERS || option->type == KVC_OPTION_GROUPS) {
		ids_format(value, text, room);
		return;
	}
	if (option->type == KVC_OPTION_GPUS) {
		kvc_conf_gpus_format(value, text, room);
		return;
	}
	memcpy(&number, value, sizeof number);
	if (option->type == KVC_OPTION_CHOICE)
		snprintf(text, room, "%s", option->choices[number]);
	else if (option->type == KVC_OPTION_BOOL)
		snprintf(text, room, "%s", number ? "yes" : "no");
	else if (option->automatic && number == 0)
		snprintf(text, room, "auto");
	else
		number_format(option, number, text, room);
}
