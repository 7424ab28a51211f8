/* Texts of the result codes. */
#include "kvc_status.h"

#include <stddef.h>

struct status_row {
	const char *name;
	const char *text;
	int retryable;
};

static const struct status_row rows[KVC_STATUS_COUNT] = {
#define STATUS_ROW(name, number, text, retry) [number] = {#name, text, retry},
        KVC_STATUS_TABLE(STATUS_ROW)
#undef STATUS_ROW
};

static const struct status_row *row_of(kvc_status status)
{
	static const struct status_row unknown = {"UNKNOWN", "unknown status", 0};
	size_t i = (size_t)status;

	return i < KVC_STATUS_COUNT && rows[i].name ? &rows[i] : &unknown;
}

const char *kvc_status_text(kvc_status status)
{
	return row_of(status)->text;
}

const char *kvc_status_name(kvc_status status)
{
	return row_of(status)->name;
}

int kvc_status_retryable(kvc_status status)
{
	return row_of(status)->retryable;
}
