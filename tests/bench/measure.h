/* What the benchmarks share: clocks and order statistics. */
#ifndef KVC_BENCH_MEASURE_H
#define KVC_BENCH_MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline double bench_now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline int bench_compare(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts the values; the one that a share of `part` of them is not above. */
static inline double bench_quantile(double *values, size_t count, double part)
{
	size_t i = (size_t)(part * (double)(count - 1) + 0.5);

	qsort(values, count, sizeof *values, bench_compare);
	return values[i];
}

static inline double bench_median(double *values, size_t count)
{
	return bench_quantile(values, count, 0.5);
}

/* User and system time of a process, in seconds; its resolution is a clock tick (10 ms as a rule). */
static inline double bench_cpu_s(int pid)
{
	char path[64];
	unsigned long user = 0;
	unsigned long kernel = 0;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
	           &kernel) != 2)
		user = kernel = 0;
	fclose(file);
	return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

#endif
