/* Watches of descriptors. The libuv handle lives in a heap object of its own that outlives kvc_watch_close
 * until libuv has let go of it; the caller's descriptor does not have to. */
#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/loop/loop_private.h"

struct kvc_watch {
	uv_poll_t uv;
	struct kvc_loop *loop;
	kvc_watch_callback callback;
	void *context;
	int events; /* as last asked of libuv */
};

static void watch_fired(uv_poll_t *uv, int status, int events)
{
	struct kvc_watch *watch = kvc_container_of(uv, struct kvc_watch, uv);

	if (status < 0) {
		/* An error condition: libuv has stopped watching. Ask again, as the watch is level-triggered,
		 * and let the owner find the error by reading and writing. */
		uv_poll_start(uv, watch->events, watch_fired);
		events = watch->events;
	}
	watch->callback(watch->context, events & UV_READABLE, events & UV_WRITABLE);
}

static void watch_closed(uv_handle_t *handle)
{
	kvc_free(kvc_container_of(handle, struct kvc_watch, uv));
}

kvc_status kvc_watch_open(struct kvc_loop *loop, int fd, kvc_watch_callback callback, void *context,
                          struct kvc_watch **watch)
{
	struct kvc_watch *opened = kvc_calloc(1, sizeof *opened);

	kvc_loop_check_owner(loop);
	KVC_PRE(fd >= 0 && callback);
	if (!opened)
		return KVC_NO_MEMORY;
	if (uv_poll_init(&loop->uv, &opened->uv, fd)) {
		kvc_free(opened);
		return KVC_INVALID;
	}
	opened->loop = loop;
	opened->callback = callback;
	opened->context = context;
	loop->watches++;
	*watch = opened;
	return KVC_OK;
}

void kvc_watch_set(struct kvc_watch *watch, bool readable, bool writable)
{
	int events = (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0);

	kvc_loop_check_owner(watch->loop);
	if (events == watch->events)
		return; /* libuv would make a system call of it */
	watch->events = events;
	if (events)
		uv_poll_start(&watch->uv, events, watch_fired);
	else
		uv_poll_stop(&watch->uv);
}

void kvc_watch_close(struct kvc_watch *watch)
{
	kvc_loop_check_owner(watch->loop);
	watch->loop->watches--;
	uv_close((uv_handle_t *)&watch->uv, watch_closed);
}
