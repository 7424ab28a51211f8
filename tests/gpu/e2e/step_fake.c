/* A step without a GPU: a pause. */
#include "tests/gpu/e2e/step.h"

#include <stdlib.h>
#include <time.h>

#include "tests/bench/measure.h"

struct step {
	double ms;
};

struct step *step_open(double ms)
{
	struct step *step = malloc(sizeof *step);

	if (!step)
		abort();
	step->ms = ms;
	return step;
}

void step_close(struct step *step)
{
	free(step);
}

uint32_t step_launches(const struct step *step)
{
	(void)step;
	return 1;
}

uint64_t step_launch_bytes(const struct step *step)
{
	(void)step;
	return 0;
}

double step_run(struct step *step)
{
	const struct timespec pause = {.tv_nsec = (long)(step->ms * 1e6)};
	double started = bench_now_s();

	nanosleep(&pause, NULL);
	return (bench_now_s() - started) * 1e3;
}
