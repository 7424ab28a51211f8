/* Reports, kept as a JSON object until they are printed. */
#include "client/cli/report.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"

void kvc_report_init(struct kvc_report *report)
{
	report->values = json_object();
	report->failed = !report->values;
}

static void set(struct kvc_report *report, const char *name, json_t *value)
{
	if (json_object_set_new(report->values, name, value) != 0)
		report->failed = true;
}

json_t *kvc_report_string(const char *value)
{
	json_t *string = json_string(value);
	char *ascii = string ? NULL : strdup(value);

	if (!ascii)
		return string;
	for (char *c = ascii; *c; c++) {
		if (*c & 0x80)
			*c = '?';
	}
	string = json_string(ascii);
	free(ascii);
	return string;
}

void kvc_report_text(struct kvc_report *report, const char *name, const char *value)
{
	set(report, name, kvc_report_string(value));
}

void kvc_report_count(struct kvc_report *report, const char *name, uint64_t value)
{
	set(report, name, json_integer((json_int_t)value));
}

/* JSON knows no infinity: such a value is null. */
void kvc_report_real(struct kvc_report *report, const char *name, double value)
{
	set(report, name, isfinite(value) ? json_real(value) : json_null());
}

void kvc_report_flag(struct kvc_report *report, const char *name, bool value)
{
	set(report, name, json_boolean(value));
}

static void format(const json_t *value, char *out, size_t bytes)
{
	if (json_is_string(value))
		(void)snprintf(out, bytes, "%s", json_string_value(value));
	else if (json_is_integer(value))
		(void)snprintf(out, bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_real(value))
		(void)snprintf(out, bytes, "%.6g", json_real_value(value));
	else
		(void)snprintf(out, bytes, "%s",
		               json_is_true(value)    ? "yes"
		               : json_is_false(value) ? "no"
		                                      : "-");
}

static bool add_line(struct libscols_table *table, const char *name, const json_t *value)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);
	char text[512];

	format(value, text, sizeof(text));
	return line && scols_line_set_data(line, 0, name) == 0 && scols_line_set_data(line, 1, text) == 0;
}

static bool print_table(json_t *values)
{
	struct libscols_table *table = scols_new_table();
	bool good = table && scols_table_new_column(table, "name", 0, 0) &&
	            scols_table_new_column(table, "value", 0, SCOLS_FL_RIGHT);
	const char *name;
	json_t *value;

	if (good) {
		(void)scols_table_enable_noheadings(table, 1);
		json_object_foreach(values, name, value) good = good && add_line(table, name, value);
	}
	good = good && scols_print_table(table) == 0;
	scols_unref_table(table);
	return good;
}

int kvc_report_print(struct kvc_report *report, bool json, int code)
{
	bool good = !report->failed;

	if (good && json)
		good = json_dumpf(report->values, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) == 0 &&
		       fputc('\n', stdout) == '\n';
	else if (good)
		good = print_table(report->values);
	json_decref(report->values);
	if (good)
		return code;
	(void)fprintf(stderr, "kvcellar: cannot print the result\n");
	return KVC_EXIT_FAILURE;
}
