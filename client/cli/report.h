/* A command's result: names and values, printed as a table or as one JSON object, in the order they came.
 * Running out of memory while making one is told when it is printed. */
#ifndef KVC_CLI_REPORT_H
#define KVC_CLI_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct kvc_report {
	json_t *values;
	bool failed;
};

void kvc_report_init(struct kvc_report *report);
void kvc_report_text(struct kvc_report *report, const char *name, const char *value);
void kvc_report_count(struct kvc_report *report, const char *name, uint64_t value);
void kvc_report_real(struct kvc_report *report, const char *name, double value);
void kvc_report_flag(struct kvc_report *report, const char *name, bool value);

/* A JSON string of text from outside: of what is no UTF-8, all that is not ASCII is '?'. */
json_t *kvc_report_string(const char *value);

/* Print to stdout and free. Returns `code`, or KVC_EXIT_FAILURE if it could not be made. */
int kvc_report_print(struct kvc_report *report, bool json, int code);

#endif
