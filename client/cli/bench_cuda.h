/* kvcellar bench --plane cuda: a paged pool on a GPU through the daemon's engine and back. */
#ifndef KVC_CLI_BENCH_CUDA_H
#define KVC_CLI_BENCH_CUDA_H

#include "client/cli/device_pool.h"
#include "client/cli/report.h"

/* Measure, and report into *report. Returns -1 or an exit code after telling the error. */
int kvc_bench_cuda(struct kvc_job *job, const struct kvc_block_source *source, struct kvc_report *report);

#endif
