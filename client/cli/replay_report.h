/* What replays found: kept row by row, printed as tables or as JSON. */
#ifndef KVC_CLI_REPLAY_REPORT_H
#define KVC_CLI_REPLAY_REPORT_H

#include "client/cli/replay.h"

struct kvc_replay_row {
	const char *preset; /* borrowed until the report is printed */
	const char *budget; /* as it was asked for; likewise */
	uint64_t working_set;
	struct kvc_replay_setup setup;
	struct kvc_replay_result result;
	struct kvc_replay_result all; /* the same without a budget */
};

struct kvc_replay_report {
	const char *trace;
	const char *model;
	const struct kvc_trace *requests;
	struct kvc_replay_row *rows;
	uint32_t count;
	uint32_t room;
};

/* Bytes in the time of the trace, as bytes a day. */
double kvc_replay_day(const struct kvc_trace *trace, uint64_t bytes);

/* false: out of memory */
bool kvc_replay_report_add(struct kvc_replay_report *report, const struct kvc_replay_row *row);

/* Returns an exit code. Rows without a disk tier make one table, policies side by side; with one, a line
 * each.
 */
int kvc_replay_report_print(const struct kvc_replay_report *report, bool json);
void kvc_replay_report_free(struct kvc_replay_report *report);

#endif
