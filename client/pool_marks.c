/* See pool_marks.h. */
#include "client/pool_marks.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/fail.h"
#include "client/internal.h"

#define BYTES (KVCC_POOL_MARKS * sizeof(uint32_t))

/* ---- open ---------------------------------------------------------------------------------- */

static kvc_status words_register(struct kvcc_marks *marks, int fd)
{
	const struct kvcc_cuda *cuda = marks->cuda;
	void *words = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	kvcc_cu_result error;

	if (words == MAP_FAILED)
		return kvcc_fail(KVC_NO_MEMORY, "cannot map the marks of a pool");
	memset(words, 0, BYTES); /* its page is there from now on */
	error = cuda->host_register(words, BYTES, KVCC_CU_HOST_PORTABLE | KVCC_CU_HOST_DEVICE_MAP);
	if (error != 0) {
		(void)munmap(words, BYTES);
		return kvcc_cuda_fail(cuda, error, "cannot register the marks of a pool with the driver");
	}
	marks->words = words;
	error = cuda->host_device_address(&marks->device, words, 0);
	return error == 0 ? KVC_OK
	                  : kvcc_cuda_fail(cuda, error, "cannot find the marks of a pool on the GPU");
}

/* A driver that cannot says so here, not at the first request. */
static kvc_status write_once(const struct kvcc_marks *marks)
{
	const struct kvcc_cuda *cuda = marks->cuda;
	void *stream;
	kvcc_cu_result error = cuda->stream_create(&stream, KVCC_CU_STREAM_NON_BLOCKING);

	if (error != 0)
		return kvcc_cuda_fail(cuda, error, "cannot make a stream");
	error = cuda->stream_write(stream, marks->device, 0, 0);
	if (error == 0)
		error = cuda->stream_synchronize(stream);
	(void)cuda->stream_destroy(stream);
	return error == 0
	               ? KVC_OK
	               : kvcc_cuda_fail(cuda, error, "streams of this GPU cannot write the marks of a pool");
}

static kvc_status events_make(struct kvcc_marks *marks)
{
	const struct kvcc_cuda *cuda = marks->cuda;
	kvcc_cu_result error = 0;

	for (unsigned i = 0; error == 0 && i < KVCC_POOL_MARKS; i++)
		error = cuda->event_create(&marks->events[i], KVCC_CU_EVENT_DISABLE_TIMING);
	return error == 0 ? KVC_OK : kvcc_cuda_fail(cuda, error, "cannot make an event");
}

kvc_status kvcc_marks_open(struct kvcc_marks *marks, const struct kvcc_cuda *cuda, int *fd)
{
	kvc_status status = kvcc_memfd_make(BYTES, fd);

	marks->cuda = cuda;
	(void)pthread_mutex_init(&marks->lock, NULL); /* cannot fail with default attributes on Linux */
	if (status != KVC_OK)
		return status;
	status = words_register(marks, *fd);
	if (status == KVC_OK)
		status = write_once(marks);
	if (status == KVC_OK)
		status = events_make(marks);
	if (status != KVC_OK)
		(void)close(*fd);
	return status;
}

/* ---- use ----------------------------------------------------------------------------------- */

static kvcc_cu_result note_next(struct kvcc_marks *marks, void *stream, struct kvcc_mark *mark)
{
	const struct kvcc_cuda *cuda = marks->cuda;
	uint32_t i = marks->next++ % KVCC_POOL_MARKS;
	kvcc_cu_result error = cuda->stream_wait(stream, marks->events[i], 0);

	*mark = (struct kvcc_mark){.word = i, .value = ++marks->numbers[i]};
	if (error == 0)
		error = cuda->stream_write(stream, marks->device + i * sizeof(uint32_t), mark->value, 0);
	if (error == 0)
		error = cuda->event_record(marks->events[i], stream);
	return error;
}

kvc_status kvcc_marks_note(struct kvcc_marks *marks, void *stream, struct kvcc_mark *mark)
{
	kvcc_cu_result error;

	(void)pthread_mutex_lock(&marks->lock);
	error = note_next(marks, stream, mark);
	(void)pthread_mutex_unlock(&marks->lock);
	return error == 0 ? KVC_OK
	                  : kvcc_cuda_fail(marks->cuda, error, "cannot mark the transfer on its stream");
}

/* ---- close --------------------------------------------------------------------------------- */

/* With the context current. */
static bool all_written(const struct kvcc_marks *marks)
{
	for (unsigned i = 0; i < KVCC_POOL_MARKS && marks->events[i]; i++)
		if (marks->cuda->event_query(marks->events[i]) != 0)
			return false;
	return true;
}

static void driver_release(struct kvcc_marks *marks)
{
	bool idle = all_written(marks);

	for (unsigned i = 0; i < KVCC_POOL_MARKS && marks->events[i]; i++)
		(void)marks->cuda->event_destroy(marks->events[i]);
	if (idle && marks->words && marks->cuda->host_unregister(marks->words) == 0)
		(void)munmap(marks->words, BYTES);
}

void kvcc_marks_close(struct kvcc_marks *marks, void *context)
{
	void *popped;

	if (!marks->cuda)
		return;
	if (context && marks->cuda->context_push(context) == 0) {
		driver_release(marks);
		(void)marks->cuda->context_pop(&popped);
	}
	(void)pthread_mutex_destroy(&marks->lock);
}
