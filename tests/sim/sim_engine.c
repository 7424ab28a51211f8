/* An engine that runs each job with the real codec, whole, at a random later step. */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "tests/sim/sim.h"

enum { SCRATCH_ALIGN = 64 };

struct sim_engine {
	struct kvc_engine engine;
	struct kvc_loop *loop;
};

struct job_event {
	struct sim_event event;
	struct kvc_engine_job *job;
};

/* The processor's best, as in the daemon; the model has the scalar one. */
static const struct kvc_codec *codec_get(void)
{
	static const struct kvc_codec *codec;

	if (!codec)
		codec = kvc_codec_get(KVC_SIMD_AUTO);
	return codec;
}

static kvc_status encode(struct kvc_engine_job *job, void *scratch)
{
	const struct kvc_codec *codec = codec_get();

	kvc_image_encode_tiles(job->plan, codec, &job->view, job->image, 0, job->plan->tiles, scratch);
	return kvc_image_seal(job->plan, &job->view, job->image, job->image_bytes, &job->length);
}

static kvc_status take(struct kvc_engine_job *job)
{
	struct kvc_image image;

	job->length = job->external.bytes;
	if (job->external.bytes > job->image_bytes)
		return KVC_NO_SPACE;
	memcpy(job->image, job->external.data, job->external.bytes);
	if (kvc_image_open(job->image, job->length, 0, &image) != KVC_OK)
		return KVC_CORRUPT;
	return kvc_image_verify(&image);
}

static kvc_status give(struct kvc_engine_job *job)
{
	struct kvc_image image;

	job->length = job->image_bytes;
	if (kvc_image_open(job->image, job->image_bytes, 0, &image) != KVC_OK ||
	    kvc_image_verify(&image) != KVC_OK)
		return KVC_CORRUPT;
	if (job->image_bytes > job->external.bytes)
		return KVC_LIMIT;
	memcpy(job->external.data, job->image, job->image_bytes);
	return KVC_OK;
}

static kvc_status decode(struct kvc_engine_job *job, void *scratch)
{
	const struct kvc_codec *codec = codec_get();
	struct kvc_image image;
	kvc_status status = kvc_image_open(job->image, job->image_bytes, 0, &image);

	if (status != KVC_OK)
		return status;
	return kvc_image_decode_tiles(&image, codec, &job->view, 0, image.plan.tiles, 0, scratch);
}

static kvc_status verify(struct kvc_engine_job *job)
{
	struct kvc_image image;

	return kvc_image_open(job->image, job->image_bytes, 0, &image) == KVC_OK ? kvc_image_verify(&image)
	                                                                         : KVC_CORRUPT;
}

static void job_run(struct sim_event *event)
{
	struct job_event *holder = kvc_container_of(event, struct job_event, event);
	struct kvc_engine_job *job = holder->job;
	size_t bytes;
	void *scratch;

	free(holder);
	if (job->op == KVC_ENGINE_WORK) {
		job->status = job->work(job);
		job->done(job);
		return;
	}
	if (job->op == KVC_ENGINE_VERIFY) {
		job->status = job->cancelled ? KVC_CANCELLED : verify(job);
		job->done(job);
		return;
	}
	bytes = kvc_round_up(kvc_image_scratch_bytes(job->plan), SCRATCH_ALIGN);
	scratch = aligned_alloc(SCRATCH_ALIGN, bytes);
	KVC_INVARIANT(scratch);
	if (job->cancelled)
		job->status = KVC_CANCELLED;
	else if (job->op == KVC_ENGINE_TAKE || job->op == KVC_ENGINE_GIVE)
		job->status = job->op == KVC_ENGINE_TAKE ? take(job) : give(job);
	else
		job->status = job->op == KVC_ENGINE_ENCODE ? encode(job, scratch) : decode(job, scratch);
	free(scratch);
	job->done(job);
}

static void engine_submit(struct kvc_engine *base, struct kvc_engine_job *job)
{
	struct sim_engine *engine = kvc_container_of(base, struct sim_engine, engine);
	struct job_event *holder = calloc(1, sizeof *holder);

	KVC_INVARIANT(holder);
	job->cancelled = 0;
	holder->job = job;
	holder->event.run = job_run;
	sim_event_add(engine->loop, &holder->event);
}

static void engine_cancel(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	(void)engine;
	job->cancelled = 1;
}

static void engine_close(struct kvc_engine *engine)
{
	kvc_free(kvc_container_of(engine, struct sim_engine, engine));
}

kvc_status sim_engine_open(struct kvc_loop *loop, struct kvc_engine **out)
{
	static const struct kvc_engine_ops ops = {
	        .name = "sim",
	        .submit = engine_submit,
	        .cancel = engine_cancel,
	        .close = engine_close,
	};
	struct sim_engine *engine = kvc_calloc(1, sizeof *engine);

	if (!engine)
		return KVC_NO_MEMORY;
	engine->engine.ops = &ops;
	engine->loop = loop;
	*out = &engine->engine;
	return KVC_OK;
}
