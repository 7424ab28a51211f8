/* Tables of replays. See replay_report.h. */
#include "client/cli/replay_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cmd.h"
#include "client/cli/report.h"

#define DAY_MS 86400000.0

enum { FIRST_ROWS = 64, CELL_MAX = 32 };

double kvc_replay_day(const struct kvc_trace *trace, uint64_t bytes)
{
	double duration_ms = trace->duration_ms > 0 ? trace->duration_ms : 1;

	return (double)bytes / duration_ms * DAY_MS;
}

bool kvc_replay_report_add(struct kvc_replay_report *report, const struct kvc_replay_row *row)
{
	if (report->count == report->room) {
		uint32_t room = report->room ? 2 * report->room : FIRST_ROWS;
		struct kvc_replay_row *rows = reallocarray(report->rows, room, sizeof(*rows));

		if (!rows)
			return false;
		report->rows = rows;
		report->room = room;
	}
	report->rows[report->count++] = *row;
	return true;
}

void kvc_replay_report_free(struct kvc_replay_report *report)
{
	free(report->rows);
}

/* --- values --- */

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static double hit_percent(const struct kvc_replay_result *result)
{
	return percent(result->hits_ram + result->hits_disk, result->blocks);
}

static void format_bytes(double bytes, char *out)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	unsigned unit = 0;

	while (bytes >= 1024 && unit < 5) {
		bytes /= 1024;
		unit++;
	}
	(void)snprintf(out, CELL_MAX, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

/* --- cells --- */

static bool add_columns(struct libscols_table *table, const char *const *names, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (!scols_table_new_column(table, names[i], 0, SCOLS_FL_RIGHT))
			return false;
	return true;
}

static bool set_text(struct libscols_line *line, unsigned column, const char *text)
{
	return scols_line_set_data(line, column, text) == 0;
}

static bool set_bytes(struct libscols_line *line, unsigned column, double bytes)
{
	char text[CELL_MAX];

	format_bytes(bytes, text);
	return set_text(line, column, text);
}

static bool set_real(struct libscols_line *line, unsigned column, double value)
{
	char text[CELL_MAX];

	(void)snprintf(text, sizeof(text), "%.2f", value);
	return set_text(line, column, text);
}

/* --- one table, policies side by side --- */

static bool same_line(const struct kvc_replay_row *a, const struct kvc_replay_row *b)
{
	return a->preset == b->preset && a->setup.ram_bytes == b->setup.ram_bytes;
}

/* Policies follow each other in the rows of one line. */
static uint32_t line_length(const struct kvc_replay_report *report, uint32_t first)
{
	uint32_t length = 1;

	while (first + length < report->count &&
	       same_line(&report->rows[first], &report->rows[first + length]) &&
	       report->rows[first].setup.policy != report->rows[first + length].setup.policy)
		length++;
	return length;
}

static bool add_policies(struct libscols_table *table, const struct kvc_replay_row *rows, uint32_t count)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);
	bool good = line && set_text(line, 0, rows->preset) &&
	            set_bytes(line, 1, (double)rows->setup.ram_bytes) &&
	            set_real(line, 2, percent(rows->setup.ram_bytes, rows->working_set));

	for (uint32_t i = 0; good && i < count; i++)
		good = set_real(line, 3 + i, hit_percent(&rows[i].result));
	return good;
}

static bool fill_policies(const struct kvc_replay_report *report, struct libscols_table *table)
{
	static const char *const names[] = {"preset", "RAM", "% of set"};
	uint32_t length = line_length(report, 0);
	bool good = add_columns(table, names, 3);

	for (uint32_t i = 0; good && i < length; i++) {
		const char *name = kvc_policy_name(report->rows[i].setup.policy);

		good = add_columns(table, &name, 1);
	}
	for (uint32_t i = 0; good && i < report->count; i += length)
		good = add_policies(table, &report->rows[i], length);
	return good;
}

/* --- a line each --- */

static bool add_row(const struct kvc_replay_report *report, struct libscols_table *table,
                    const struct kvc_replay_row *row)
{
	const struct kvc_replay_result *result = &row->result;
	double day = kvc_replay_day(report->requests, result->written);
	struct libscols_line *line = scols_table_new_line(table, NULL);

	return line && set_text(line, 0, row->preset) && set_bytes(line, 1, (double)row->setup.ram_bytes) &&
	       set_bytes(line, 2, (double)row->setup.disk_bytes) &&
	       set_text(line, 3, kvc_policy_name(row->setup.policy)) && set_text(line, 4, row->budget) &&
	       set_real(line, 5, hit_percent(result)) &&
	       set_real(line, 6, percent(result->hits_ram, result->blocks)) &&
	       set_real(line, 7, percent(result->hits_disk, result->blocks)) &&
	       set_bytes(line, 8, (double)result->ram_peak) &&
	       set_bytes(line, 9, (double)result->disk_peak) && set_bytes(line, 10, day) &&
	       set_real(line, 11, day / (double)row->setup.disk_bytes) &&
	       set_real(line, 12, percent(result->written, row->all.written)) &&
	       set_real(line, 13, 100 * hit_percent(result) / hit_percent(&row->all));
}

static bool fill_rows(const struct kvc_replay_report *report, struct libscols_table *table)
{
	static const char *const names[] = {
	        "preset",    "RAM",      "disk",      "policy",     "budget", "hits %",      "from RAM",
	        "from disk", "RAM used", "disk used", "writes/day", "DWPD",   "% of writes", "% of hits",
	};
	bool good = add_columns(table, names, sizeof(names) / sizeof(names[0]));

	for (uint32_t i = 0; good && i < report->count; i++)
		good = add_row(report, table, &report->rows[i]);
	return good;
}

static void print_summary(const struct kvc_replay_report *report)
{
	const struct kvc_trace *trace = report->requests;

	(void)printf("%s: %" PRIu32 " requests in %.1f min, %" PRIu32 " blocks, %" PRIu32
	             " distinct; %s; prefix hits in %% of blocks\n",
	             report->trace, trace->request_count, trace->duration_ms / 60000, trace->block_count,
	             trace->distinct, report->model);
	for (uint32_t i = 0; i < report->count; i++) {
		const struct kvc_replay_row *row = &report->rows[i];
		char block[CELL_MAX], set[CELL_MAX];

		if (i && report->rows[i - 1].preset == row->preset)
			continue;
		format_bytes((double)row->setup.block_bytes, block);
		format_bytes((double)row->working_set, set);
		(void)printf("%s: %s a block, working set %s\n", row->preset, block, set);
	}
}

static bool print_tables(const struct kvc_replay_report *report)
{
	struct libscols_table *table = scols_new_table();
	bool disk = report->rows[0].setup.disk_bytes > 0;
	bool good = table && (disk ? fill_rows(report, table) : fill_policies(report, table));

	if (good)
		print_summary(report);
	good = good && scols_print_table(table) == 0;
	scols_unref_table(table);
	return good;
}

/* --- JSON --- */

static json_t *row_json(const struct kvc_replay_report *report, const struct kvc_replay_row *row)
{
	const struct kvc_replay_result *result = &row->result;

	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:f}",
	                 "preset", row->preset, "policy", kvc_policy_name(row->setup.policy), "budget",
	                 row->budget, "block_bytes", (json_int_t)row->setup.block_bytes, "working_set_bytes",
	                 (json_int_t)row->working_set, "ram_bytes", (json_int_t)row->setup.ram_bytes,
	                 "disk_bytes", (json_int_t)row->setup.disk_bytes, "budget_bytes_per_day",
	                 (json_int_t)row->setup.budget_bytes, "hit_percent", hit_percent(result),
	                 "ram_hit_percent", percent(result->hits_ram, result->blocks), "disk_hit_percent",
	                 percent(result->hits_disk, result->blocks), "ram_used_bytes",
	                 (json_int_t)result->ram_peak, "disk_used_bytes", (json_int_t)result->disk_peak,
	                 "disk_written_bytes", (json_int_t)result->written, "disk_read_bytes",
	                 (json_int_t)result->read, "disk_written_bytes_per_day",
	                 kvc_replay_day(report->requests, result->written));
}

static bool print_json(const struct kvc_replay_report *report)
{
	const struct kvc_trace *trace = report->requests;
	json_t *rows = json_array();
	json_t *all =
	        json_pack("{s:o, s:s, s:I, s:I, s:I, s:f, s:o}", "trace", kvc_report_string(report->trace),
	                  "model", report->model, "requests", (json_int_t)trace->request_count, "blocks",
	                  (json_int_t)trace->block_count, "distinct_blocks", (json_int_t)trace->distinct,
	                  "duration_ms", trace->duration_ms, "replays", rows);
	bool good = all;

	for (uint32_t i = 0; good && i < report->count; i++)
		good = json_array_append_new(rows, row_json(report, &report->rows[i])) == 0;
	good = good && json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) == 0 &&
	       fputc('\n', stdout) == '\n';
	json_decref(all);
	return good;
}

int kvc_replay_report_print(const struct kvc_replay_report *report, bool json)
{
	if (json ? print_json(report) : print_tables(report))
		return KVC_EXIT_OK;
	(void)fprintf(stderr, "kvcellar replay: cannot print the result\n");
	return KVC_EXIT_FAILURE;
}
