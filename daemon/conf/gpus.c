/* The list of GPUs: its text, and what `auto` finds. CUDA is not asked: only an engine may hold a context. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/conf/table.h"

/* A number below KVC_CONF_GPUS_MAX, up to a comma, a blank or the end. */
static bool ordinal_parse(const char **cursor, uint32_t *ordinal)
{
	const char *text = *cursor;
	uint32_t number = 0;

	while (*text >= '0' && *text <= '9' && number < KVC_CONF_GPUS_MAX)
		number = 10 * number + (uint32_t)(*text++ - '0');
	if (text == *cursor || number >= KVC_CONF_GPUS_MAX || (*text && *text != ',' && *text != ' '))
		return false;
	*cursor = text;
	*ordinal = number;
	return true;
}

static bool named(const struct kvc_conf_gpus *gpus, uint32_t ordinal)
{
	for (uint32_t i = 0; i < gpus->count; i++) {
		if (gpus->ordinals[i] == ordinal)
			return true;
	}
	return false;
}

bool kvc_conf_gpus_parse(const char *text, struct kvc_conf_gpus *gpus)
{
	static const char separators[] = ", ";
	struct kvc_conf_gpus list = {.automatic = strcmp(text, "auto") == 0};

	if (!list.automatic && strcmp(text, "none") != 0) {
		for (text += strspn(text, separators); *text; text += strspn(text, separators)) {
			uint32_t ordinal;

			if (!ordinal_parse(&text, &ordinal) || named(&list, ordinal))
				return false;
			list.ordinals[list.count++] = ordinal;
		}
		if (!list.count)
			return false;
	}
	*gpus = list;
	return true;
}

void kvc_conf_gpus_format(const struct kvc_conf_gpus *gpus, char *text, size_t bytes)
{
	size_t used = (size_t)snprintf(text, bytes, "%s",
	                               gpus->automatic ? "auto"
	                               : gpus->count   ? ""
	                                               : "none");

	for (uint32_t i = 0; !gpus->automatic && i < gpus->count && used < bytes; i++)
		used += (size_t)snprintf(text + used, bytes - used, "%s%u", i ? "," : "", gpus->ordinals[i]);
}

/* nvidia0, nvidia1, ... but not nvidiactl. */
static uint32_t devices_count(const char *folder)
{
	static const char name[] = "nvidia";
	DIR *devices = opendir(folder);
	uint32_t count = 0;

	for (struct dirent *entry = devices ? readdir(devices) : NULL; entry; entry = readdir(devices)) {
		const char *number = entry->d_name + sizeof name - 1;

		if (strncmp(entry->d_name, name, sizeof name - 1) == 0 && *number &&
		    strspn(number, "0123456789") == strlen(number))
			count++;
	}
	if (devices)
		closedir(devices);
	return count;
}

/* CUDA's list of what this process may see: it ends where an entry is empty or negative. */
static uint32_t visible_count(const char *visible)
{
	uint32_t count = 0;

	while (*visible && *visible != ',' && *visible != '-') {
		count++;
		visible += strcspn(visible, ",");
		visible += *visible == ',';
	}
	return count;
}

void kvc_conf_gpus_detect(const char *folder, const char *visible, struct kvc_conf_gpus *gpus)
{
	uint32_t count = devices_count(folder);

	if (visible && visible_count(visible) < count)
		count = visible_count(visible);
	gpus->count = count < KVC_CONF_GPUS_MAX ? count : KVC_CONF_GPUS_MAX;
	for (uint32_t i = 0; i < gpus->count; i++)
		gpus->ordinals[i] = i;
}
