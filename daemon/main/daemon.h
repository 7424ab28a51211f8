/* The daemon: all modules, wired. Loop thread only.
 *
 * steps.c starts them in order and stops them in reverse; nothing else is decided here. */
#ifndef KVC_DAEMON_H
#define KVC_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/conf/conf.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/gpu.h"
#include "daemon/io/io.h"
#include "daemon/loop/loop.h"
#include "daemon/mem/arena.h"
#include "daemon/rpc/listen.h"
#include "daemon/rpc/rpc.h"
#include "daemon/stats/stats.h"
#include "daemon/tier/tier.h"

struct kvc_daemon {
	int argc;
	char *const *argv;
	struct kvc_conf given; /* with `auto` as it came */
	struct kvc_conf conf;  /* in force */

	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_arena *arena;
	struct kvc_engine *engine;
	struct kvc_gpu *gpus[KVC_GPUS_MAX];
	uint32_t gpu_count;     /* open */
	uint32_t gpus_pending;  /* without a verdict */
	kvc_status gpus_status; /* KVC_OK as long as none failed */
	struct kvc_io *io;
	struct kvc_timer io_memory; /* until the arena's pages are in place */
	struct kvc_tier *disk;      /* NULL: none */
	struct kvc_secret secret;
	struct kvc_cache *cache;
	struct kvc_rpc *rpc;
	struct kvc_listen listen;

	/* steps.c */
	unsigned step;      /* steps that are started */
	bool waiting;       /* for the step at hand, which ends with kvc_daemon_step_done */
	bool recovering;    /* the disk tier is being read back */
	bool stopping;      /* on the way down */
	bool stop_wanted;   /* a signal came */
	bool ready;         /* and the service manager was told so */
	bool failed;        /* exit with 1 */
	struct kvc_task go; /* begins the first step on the loop */
	uint64_t stop_began_ms;
	struct kvc_timer stop_guard;
	struct kvc_timer watchdog;
	uint64_t watchdog_ms;
};

/* Run until a signal ends it. Exit status of the process. */
int kvc_daemon_run(struct kvc_daemon *daemon);

/* A step that waited is complete. */
void kvc_daemon_step_done(struct kvc_daemon *daemon, kvc_status status);

/* Read the configuration again and take what a running daemon can take. A bad one changes nothing. */
void kvc_daemon_reload(struct kvc_daemon *daemon);

/* The limits of the service as the configuration says. */
void kvc_daemon_limits(const struct kvc_conf *conf, struct kvc_rpc_limits *limits);
void kvc_daemon_budgets(const struct kvc_conf *conf, struct kvc_cache *cache);

/* gpus.c: the engines of the GPUs. */
kvc_status kvc_daemon_gpus_start(struct kvc_daemon *daemon);
void kvc_daemon_gpus_stop(struct kvc_daemon *daemon);

/* A stop is wanted: wait no longer for engines that are starting. */
void kvc_daemon_gpus_give_up(struct kvc_daemon *daemon);

/* ", GPU 0 (name), ..." for the line that says what is ready; empty without any. */
void kvc_daemon_gpus_describe(const struct kvc_daemon *daemon, char *text, size_t bytes);

/* notify.c: the service manager, if there is one. */
void kvc_notify(const char *state);
void kvc_notify_status(const char *text);

/* A socket that it passed. KVC_MISS: none. KVC_INVALID: not one listening Unix stream socket. */
kvc_status kvc_notify_socket(int *fd);

/* Milliseconds after which it takes the daemon for dead; 0: never. */
uint64_t kvc_notify_watchdog_ms(void);

#endif
