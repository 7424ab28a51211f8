/* Health of a drive: decoding and judging. Pure. See drive.h. */
#include "daemon/tier/drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BIT(n) (1u << (n))

/* Of the critical warning. Bit 1 is the temperature: the drive slows down by itself; 4 and 5 concern memory
 * that is not used here. */
enum { SPARE = BIT(0), RELIABILITY = BIT(2), READ_ONLY = BIT(3) };

void kvc_drive_decode_smart(const uint8_t page[KVC_DRIVE_SMART_BYTES], struct kvc_drive_reading *reading)
{
	enum { WARNING = 0, SPARE_LEFT = 3, SPARE_LIMIT = 4, USED = 5, MEDIA_ERRORS = 160 };

	*reading = (struct kvc_drive_reading){
	        .critical_warning = page[WARNING],
	        .spare = page[SPARE_LEFT],
	        .spare_threshold = page[SPARE_LIMIT],
	        .percentage_used = page[USED],
	};
	for (unsigned i = 0; i < 8; i++) /* of 16 bytes: more errors than 64 bits hold there are not */
		reading->media_errors |= (uint64_t)page[MEDIA_ERRORS + i] << 8 * i;
}

/* --- text ----------------------------------------------------------------------------------------- */

enum value { VALUE_USED, VALUE_WARNING, VALUE_MEDIA, VALUE_SPARE, VALUE_THRESHOLD, VALUES };

static const struct {
	const char *name;
	uint64_t max;
} values[VALUES] = {
        [VALUE_USED] = {"percentage_used", 10000},
        [VALUE_WARNING] = {"critical_warning", 255},
        [VALUE_MEDIA] = {"media_errors", UINT64_MAX},
        [VALUE_SPARE] = {"available_spare", 100},
        [VALUE_THRESHOLD] = {"available_spare_threshold", 100},
};

static bool number_parse(const char *text, uint64_t max, uint64_t *number)
{
	uint64_t sum = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(sum, 10, &sum) ||
		    __builtin_add_overflow(sum, (uint64_t)(*text - '0'), &sum))
			return false;
	}
	*number = sum;
	return sum <= max;
}

/* One line, without its comment: false if it is not `name number`. */
static bool line_parse(char *line, uint64_t found[VALUES], bool seen[VALUES])
{
	static const char blanks[] = " \t\r";
	char *rest = NULL;
	const char *name = strtok_r(line, blanks, &rest);
	const char *number = name ? strtok_r(NULL, blanks, &rest) : NULL;

	if (!name)
		return true;
	for (unsigned i = 0; number && i < VALUES; i++) {
		if (strcmp(name, values[i].name) != 0)
			continue;
		if (seen[i] || strtok_r(NULL, blanks, &rest))
			return false;
		seen[i] = true;
		return number_parse(number, values[i].max, &found[i]);
	}
	return false;
}

kvc_status kvc_drive_parse(const char *text, struct kvc_drive_reading *reading, char *why, size_t why_bytes)
{
	uint64_t found[VALUES] = {0};
	bool seen[VALUES] = {false};
	unsigned number = 1;

	for (; *text; number++) {
		size_t bytes = strcspn(text, "\n");
		char line[128];

		if (bytes >= sizeof line) {
			snprintf(why, why_bytes, "line %u is too long", number);
			return KVC_INVALID;
		}
		memcpy(line, text, bytes);
		line[bytes] = 0;
		line[strcspn(line, "#")] = 0;
		if (!line_parse(line, found, seen)) {
			snprintf(why, why_bytes, "line %u is not a known name with a number", number);
			return KVC_INVALID;
		}
		text += bytes + (text[bytes] == '\n');
	}
	if (!seen[VALUE_USED]) {
		snprintf(why, why_bytes, "it has no percentage_used");
		return KVC_INVALID;
	}
	*reading = (struct kvc_drive_reading){
	        .percentage_used = (uint32_t)found[VALUE_USED],
	        .critical_warning = (uint32_t)found[VALUE_WARNING],
	        .media_errors = found[VALUE_MEDIA],
	        .spare = (uint32_t)found[VALUE_SPARE],
	        .spare_threshold = (uint32_t)found[VALUE_THRESHOLD],
	};
	return KVC_OK;
}

/* --- judging -------------------------------------------------------------------------------------- */

/* Spare: of the drive that has least above its threshold. */
void kvc_drive_worst(struct kvc_drive_reading *all, const struct kvc_drive_reading *one)
{
	int64_t left = (int64_t)all->spare - all->spare_threshold;

	if (one->percentage_used > all->percentage_used)
		all->percentage_used = one->percentage_used;
	all->critical_warning |= one->critical_warning;
	all->media_errors += one->media_errors;
	if ((int64_t)one->spare - one->spare_threshold >= left)
		return;
	all->spare = one->spare;
	all->spare_threshold = one->spare_threshold;
}

static bool media_errors_rise(struct kvc_drive_history *history, uint64_t errors, uint64_t now_ms)
{
	if (history->known && errors > history->media_errors) {
		history->rose = true;
		history->rose_ms = now_ms;
	} else if (history->rose && now_ms - history->rose_ms >= KVC_DRIVE_QUIET_MS) {
		history->rose = false;
	}
	history->known = true;
	history->media_errors = errors;
	return history->rose;
}

const char *kvc_drive_judge(struct kvc_drive_history *history, const struct kvc_drive_reading *reading,
                            uint64_t now_ms)
{
	bool media = media_errors_rise(history, reading->media_errors, now_ms);

	if (reading->critical_warning & READ_ONLY)
		return "it has become read-only";
	if (reading->critical_warning & RELIABILITY)
		return "it is no longer reliable";
	if (reading->critical_warning & SPARE || reading->spare < reading->spare_threshold)
		return "its spare blocks are used up";
	if (reading->percentage_used >= KVC_DRIVE_WORN)
		return "its rated life is used up";
	return media ? "it has new media errors" : NULL;
}
