/* Opening a list of directories. See disks.h. */
#include "daemon/tier/disks.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/stripe.h"

enum { LIST_BYTES = 4096 };

/* What the steps of opening share. */
struct opening {
	struct kvc_loop *loop;
	struct kvc_io *io;
	struct kvc_stats *stats;
	struct kvc_disk_options options; /* of each */
	char *detail;
	size_t detail_bytes;
	char text[LIST_BYTES];
	const char *directories[KVC_DISKS_MAX];
	uint32_t count;
	char health_text[LIST_BYTES];
	const char *health_files[KVC_DISKS_MAX];
	uint32_t health_count;
	struct kvc_tier *tiers[KVC_DISKS_MAX];
	uint32_t opened;
	struct kvc_secret secret;
};

/* A list that is being split. */
struct list {
	const char *what;
	char *text; /* LIST_BYTES */
	const char **items;
	uint32_t *count;
};

static kvc_status list_refused(const struct opening *opening, const struct list *list, const char *why)
{
	snprintf(opening->detail, opening->detail_bytes, "the list of %s %s", list->what, why);
	return KVC_INVALID;
}

/* Blanks around a comma do not count. */
static kvc_status list_split(const struct opening *opening, const struct list *list, const char *given)
{
	char *rest = list->text;
	char *item;

	if ((size_t)snprintf(list->text, LIST_BYTES, "%s", given) >= LIST_BYTES)
		return list_refused(opening, list, "is too long");
	while ((item = strsep(&rest, ","))) {
		size_t length;

		item += strspn(item, " \t");
		length = strlen(item);
		while (length && (item[length - 1] == ' ' || item[length - 1] == '\t'))
			item[--length] = '\0';
		if (!length)
			return list_refused(opening, list, "has an empty name in it");
		if (*list->count == KVC_DISKS_MAX)
			return list_refused(opening, list, "is too long");
		list->items[(*list->count)++] = item;
	}
	return KVC_OK;
}

static kvc_status lists_split(struct opening *opening, const struct kvc_disk_options *options)
{
	const struct list directories = {"directories", opening->text, opening->directories, &opening->count};
	const struct list files = {"files of their drives' health", opening->health_text,
	                           opening->health_files, &opening->health_count};
	kvc_status status = list_split(opening, &directories, options->directory);

	if (status != KVC_OK || !options->health_file)
		return status;
	status = list_split(opening, &files, options->health_file);
	if (status == KVC_OK && opening->health_count > 1 && opening->health_count != opening->count)
		return list_refused(opening, &files, "must have one name, or one for each directory");
	return status;
}

static const char *health_file_of(const struct opening *opening, uint32_t i)
{
	return opening->health_count ? opening->health_files[i % opening->health_count] : NULL;
}

/* All that is wrong with it is found when the directory is opened. */
static bool secret_found(const char *directory, struct kvc_secret *secret)
{
	char path[LIST_BYTES];
	int fd;
	bool found;

	snprintf(path, sizeof path, "%s/secret", directory);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	found = read(fd, secret->bytes, sizeof secret->bytes) == sizeof secret->bytes;
	close(fd);
	return found;
}

/* The one that most directories have, or the first of those: the others start empty. */
static void secret_choose(struct opening *opening)
{
	struct kvc_secret found[KVC_DISKS_MAX];
	uint32_t count = 0, most = 0;

	for (uint32_t i = 0; i < opening->count; i++)
		count += secret_found(opening->directories[i], &found[count]);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t times = 0;

		for (uint32_t k = 0; k < count; k++)
			times += !memcmp(&found[i], &found[k], sizeof found[i]);
		if (times > most) {
			most = times;
			opening->secret = found[i];
		}
	}
	if (!count)
		kvc_secret_random(&opening->secret);
	kvc_wipe(found, sizeof found);
}

/* The others can serve without it. */
static bool left_out(kvc_status status)
{
	return status == KVC_IO || status == KVC_CORRUPT || status == KVC_NO_SPACE;
}

static kvc_status all_open(struct opening *opening)
{
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; i < opening->count; i++) {
		opening->options.directory = opening->directories[i];
		opening->options.health_file = health_file_of(opening, i);
		opening->options.number = i + 1;
		opening->options.secret = &opening->secret;
		status = kvc_disk_open(opening->loop, opening->io, opening->stats, &opening->options,
		                       opening->detail, opening->detail_bytes,
		                       &opening->tiers[opening->opened]);
		if (status == KVC_OK)
			opening->opened++;
		else if (left_out(status))
			kvc_error("disk: %s: %s: left out", opening->directories[i],
			          *opening->detail ? opening->detail : kvc_status_text(status));
		else
			return status;
	}
	return opening->opened ? KVC_OK : status;
}

static void all_close(struct opening *opening)
{
	for (uint32_t i = 0; i < opening->opened; i++)
		kvc_disk_abandon(opening->tiers[i]);
}

/* One that missed a drop, because it was left out then, learns of it before it is read. */
static kvc_status agreed(const struct opening *opening)
{
	kvc_status status = kvc_disk_agree(opening->tiers, opening->opened);

	if (status != KVC_OK)
		snprintf(opening->detail, opening->detail_bytes, "a keyring cannot be brought up to date: %s",
		         kvc_status_text(status));
	return status;
}

static kvc_status several_open(struct opening *opening, struct kvc_tier **tier)
{
	kvc_status status;

	secret_choose(opening);
	opening->options.bytes /= opening->count;
	status = all_open(opening);
	if (status == KVC_OK)
		status = agreed(opening);
	if (status == KVC_OK)
		status =
		        kvc_stripe_open(opening->loop, opening->stats, opening->tiers, opening->opened, tier);
	if (status != KVC_OK)
		all_close(opening);
	return status;
}

kvc_status kvc_disks_open(struct kvc_loop *loop, struct kvc_io *io, struct kvc_stats *stats,
                          const struct kvc_disk_options *options, char *detail, size_t detail_bytes,
                          struct kvc_secret *secret, struct kvc_tier **tier)
{
	static struct opening opening; /* large, and once at a time: at start */
	kvc_status status;

	KVC_PRE(detail_bytes > 0);
	detail[0] = '\0';
	opening = (struct opening){.loop = loop,
	                           .io = io,
	                           .stats = stats,
	                           .options = *options,
	                           .detail = detail,
	                           .detail_bytes = detail_bytes};
	status = lists_split(&opening, options);
	if (status != KVC_OK)
		return status;
	if (opening.count > 1) {
		status = several_open(&opening, tier);
		*secret = opening.secret;
		return status;
	}
	opening.options.directory = opening.directories[0];
	opening.options.health_file = health_file_of(&opening, 0);
	status = kvc_disk_open(loop, io, stats, &opening.options, detail, detail_bytes, tier);
	if (status == KVC_OK)
		kvc_disk_secret(*tier, secret);
	return status;
}
