/* The table of start and stop steps, and what walks it: up at start, down at stop, also from half-way when a
 * step fails. A step that must wait says so and is continued by kvc_daemon_step_done. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/base/turn.h"
#include "daemon/main/daemon.h"
#include "daemon/tier/disks.h"
#include "daemon/tier/keyfile.h"

enum {
	DETAIL_BYTES = 512,
	IO_MEMORY_MS = 200,
	LOOP_TURN_US = 100,   /* it does little for each of many, who all wait for it */
	STOP_GRACE_MS = 5000, /* over the stop timeout; then the process ends as it is: no data is at risk */
};

struct step {
	const char *name;
	kvc_status (*start)(struct kvc_daemon *daemon); /* logs what went wrong and what to do */
	void (*stop)(struct kvc_daemon *daemon);
};

static uint64_t stop_left_ms(const struct kvc_daemon *daemon)
{
	uint64_t gone_ms = kvc_loop_now_ms(daemon->loop) - daemon->stop_began_ms;

	return gone_ms < daemon->conf.stop_timeout_ms ? daemon->conf.stop_timeout_ms - gone_ms : 0;
}

/* ---- the socket's path --------------------------------------------------------------------- */

/* Bound before anything that takes long, so that a second daemon ends at once; clients are listened to when
 * the cache is ready (a socket that the service manager passed lets them queue meanwhile). */
static kvc_status listen_start(struct kvc_daemon *daemon)
{
	char detail[DETAIL_BYTES];
	kvc_status status;
	int fd;

	status = kvc_notify_socket(&fd);
	if (status == KVC_OK) {
		kvc_listen_adopt(fd, &daemon->listen);
		return KVC_OK;
	}
	if (status == KVC_INVALID) {
		kvc_error("the service manager passed something else than one listening Unix stream socket: "
		          "see "
		          "ListenStream= of the socket unit");
		return status;
	}
	status = kvc_listen_open(daemon->conf.socket, (mode_t)daemon->conf.socket_mode, &daemon->listen,
	                         detail, sizeof detail);
	if (status != KVC_OK)
		kvc_error("%s", detail);
	return status;
}

static void listen_stop(struct kvc_daemon *daemon)
{
	kvc_listen_close(&daemon->listen);
}

/* ---- memory, threads, disk ----------------------------------------------------------------- */

static kvc_status stats_start(struct kvc_daemon *daemon)
{
	kvc_status status = kvc_stats_open(&daemon->stats);

	if (status != KVC_OK)
		kvc_error("no memory for the table of statistics");
	return status;
}

static void stats_stop(struct kvc_daemon *daemon)
{
	kvc_stats_close(daemon->stats);
}

static kvc_status arena_start(struct kvc_daemon *daemon)
{
	kvc_status status = kvc_arena_open(daemon->conf.ram, daemon->stats, &daemon->arena);

	if (status != KVC_OK)
		kvc_error("ram: %" PRIu64 " MiB cannot be had: %s. Choose less with --ram",
		          daemon->conf.ram >> 20, kvc_status_text(status));
	return status;
}

static void arena_stop(struct kvc_daemon *daemon)
{
	kvc_arena_close(daemon->arena);
}

static kvc_status engine_start(struct kvc_daemon *daemon)
{
	enum kvc_simd simd = (enum kvc_simd)daemon->conf.simd;
	kvc_status status;

	if (!kvc_codec_get(simd)) {
		kvc_error(
		        "simd: this processor lacks the instruction set that is asked for: use --simd auto");
		return KVC_UNSUPPORTED;
	}
	status = kvc_engine_cpu_open(daemon->loop, (uint32_t)daemon->conf.threads, simd, &daemon->engine);
	if (status != KVC_OK)
		kvc_error("threads: %" PRIu64 " cannot be started: %s. Choose less with --threads",
		          daemon->conf.threads, kvc_status_text(status));
	return status;
}

static void engine_stop(struct kvc_daemon *daemon)
{
	kvc_engine_close(daemon->engine);
}

static bool disk_wanted(const struct kvc_daemon *daemon)
{
	return daemon->conf.disk[0] != 0;
}

/* What is registered is pinned: not before the arena has found out that there is memory for all of it.
 * Without a timer nothing is registered, which only costs time. */
static void io_memory_fired(struct kvc_timer *timer)
{
	struct kvc_daemon *daemon = kvc_container_of(timer, struct kvc_daemon, io_memory);

	if (kvc_arena_touched(daemon->arena))
		kvc_io_memory(daemon->io, (void *)(uintptr_t)kvc_arena_base(daemon->arena),
		              kvc_arena_bytes(daemon->arena), 0);
	else
		(void)kvc_timer_start(daemon->loop, timer, IO_MEMORY_MS);
}

static kvc_status io_start(struct kvc_daemon *daemon)
{
	struct kvc_io_options options = {(enum kvc_io_backend)daemon->conf.io_backend,
	                                 (uint32_t)daemon->conf.io_depth};
	kvc_status status;

	if (!disk_wanted(daemon))
		return KVC_OK;
	status = kvc_io_open(daemon->loop, &options, daemon->stats, &daemon->io);
	if (status != KVC_OK)
		kvc_error("disk input/output cannot be set up: %s. If io_uring is not allowed here, use "
		          "--io-backend "
		          "threads",
		          kvc_status_text(status));
	daemon->io_memory.fire = io_memory_fired;
	if (status == KVC_OK)
		io_memory_fired(&daemon->io_memory);
	return status;
}

static void io_stop(struct kvc_daemon *daemon)
{
	kvc_timer_stop(&daemon->io_memory);
	if (daemon->io)
		kvc_io_close(daemon->io);
}

enum health { HEALTH_NONE, HEALTH_DRIVE, HEALTH_FILE };

static enum health health_of(const struct kvc_conf *conf)
{
	if (strcmp(conf->disk_health, "none") == 0)
		return HEALTH_NONE;
	return strcmp(conf->disk_health, "auto") == 0 ? HEALTH_DRIVE : HEALTH_FILE;
}

static kvc_status disk_start(struct kvc_daemon *daemon)
{
	enum health health = health_of(&daemon->conf);
	struct kvc_disk_options options = {
	        .directory = daemon->conf.disk,
	        .bytes = daemon->conf.disk_size,
	        .segment_bytes = daemon->conf.segment_size,
	        .scrub_rate = daemon->conf.scrub_rate,
	        .health_ms = health == HEALTH_NONE ? 0 : daemon->conf.disk_health_ms,
	        .health_file = health == HEALTH_FILE ? daemon->conf.disk_health : NULL,
	        .verify_on_start = daemon->conf.verify_on_start,
	        .engine = daemon->engine,
	};
	char detail[DETAIL_BYTES] = "";
	struct kvc_secret key;
	kvc_status status;

	if (!disk_wanted(daemon)) {
		kvc_secret_random(&daemon->secret);
		return KVC_OK;
	}
	if (daemon->conf.disk_key[0]) {
		status = kvc_keyfile_read(daemon->conf.disk_key, &key, detail, sizeof detail);
		if (status != KVC_OK) {
			kvc_error("%s", detail);
			return status;
		}
		options.key = &key;
	}
	status = kvc_disks_open(daemon->loop, daemon->io, daemon->stats, &options, detail, sizeof detail,
	                        &daemon->secret, &daemon->disk);
	kvc_wipe(&key, sizeof key);
	if (status != KVC_OK)
		kvc_error("disk: %s: %s", daemon->conf.disk, *detail ? detail : kvc_status_text(status));
	return status;
}

static void disk_closed(void *context)
{
	kvc_daemon_step_done(context, KVC_OK);
}

static void disk_stop(struct kvc_daemon *daemon)
{
	if (!daemon->disk)
		return;
	daemon->waiting = true;
	daemon->disk->ops->close(daemon->disk, disk_closed, daemon);
}

/* ---- cache --------------------------------------------------------------------------------- */

static kvc_status cache_start(struct kvc_daemon *daemon)
{
	struct kvc_cache_options options = {
	        .loop = daemon->loop,
	        .stats = daemon->stats,
	        .arena = daemon->arena,
	        .engine = daemon->engine,
	        .disk = daemon->disk,
	        .gpus = daemon->gpus,
	        .gpu_count = daemon->gpu_count,
	        .secret = daemon->secret,
	        .disk_day_bytes = daemon->conf.disk_budget,
	        .policy = (enum kvc_policy_kind)daemon->conf.policy,
	        .scrub_rate = daemon->conf.scrub_rate,
	        .ops_max = (uint32_t)daemon->conf.operations,
	        .moves_max = (uint32_t)daemon->conf.moves,
	};
	kvc_status status = kvc_cache_open(&options, &daemon->cache);

	if (status == KVC_OK)
		kvc_daemon_budgets(&daemon->conf, daemon->cache);
	else
		kvc_error("the cache cannot be set up: %s", kvc_status_text(status));
	return status;
}

static void cache_stop(struct kvc_daemon *daemon)
{
	kvc_cache_close(daemon->cache);
	daemon->cache = NULL;
}

static void recovered(void *context, kvc_status status)
{
	struct kvc_daemon *daemon = context;

	daemon->recovering = false;
	if (status != KVC_OK)
		kvc_error("disk: %s cannot be read back: %s. Repair it, or start with another --disk",
		          daemon->conf.disk, kvc_status_text(status));
	kvc_daemon_step_done(context, status);
}

static kvc_status recover_start(struct kvc_daemon *daemon)
{
	if (disk_wanted(daemon))
		kvc_notify_status("reading the disk tier");
	daemon->waiting = true;
	daemon->recovering = true;
	kvc_cache_recover(daemon->cache, recovered, daemon);
	return KVC_OK;
}

/* The disk tier closes before the cache, which it asks for what goes into its checkpoint. */
static void cache_stopped(void *context)
{
	struct kvc_daemon *daemon = context;
	struct kvc_tier *disk = daemon->disk;

	daemon->disk = NULL;
	if (disk)
		disk->ops->close(disk, disk_closed, daemon);
	else
		kvc_daemon_step_done(daemon, KVC_OK);
}

static void recover_stop(struct kvc_daemon *daemon)
{
	daemon->waiting = true;
	kvc_cache_stop(daemon->cache, stop_left_ms(daemon), cache_stopped, daemon);
}

/* ---- service ------------------------------------------------------------------------------- */

static kvc_status rpc_start(struct kvc_daemon *daemon)
{
	struct kvc_rpc_options options = {.loop = daemon->loop,
	                                  .stats = daemon->stats,
	                                  .cache = daemon->cache,
	                                  .gpus = daemon->gpus,
	                                  .gpu_count = daemon->gpu_count,
	                                  .version = KVCELLAR_VERSION};
	struct kvc_secret random;
	kvc_status status;

	kvc_secret_random(&random);
	memcpy(options.boot_id, random.bytes, sizeof options.boot_id);
	kvc_daemon_limits(&daemon->conf, &options.limits);
	status = kvc_rpc_open(&options, &daemon->rpc);
	if (status != KVC_OK) {
		kvc_error("the service cannot be set up: %s", kvc_status_text(status));
		return status;
	}
	status = kvc_rpc_serve(daemon->rpc, daemon->listen.fd);
	if (status == KVC_OK)
		status = kvc_listen_start(&daemon->listen);
	if (status != KVC_OK) {
		kvc_error("%s: cannot listen: %s", daemon->conf.socket, kvc_status_text(status));
		kvc_rpc_close(daemon->rpc);
		daemon->rpc = NULL;
	}
	return status;
}

static void rpc_stopped(void *context)
{
	struct kvc_daemon *daemon = context;

	kvc_rpc_close(daemon->rpc);
	kvc_daemon_step_done(daemon, KVC_OK);
}

/* Requests have half of the time, what must be written to disk has the rest. */
static void rpc_stop(struct kvc_daemon *daemon)
{
	daemon->waiting = true;
	kvc_rpc_stop(daemon->rpc, stop_left_ms(daemon) / 2, rpc_stopped, daemon);
}

/* ---- ready --------------------------------------------------------------------------------- */

static void watchdog_feed(struct kvc_timer *timer)
{
	struct kvc_daemon *daemon = kvc_container_of(timer, struct kvc_daemon, watchdog);

	kvc_notify("WATCHDOG=1");
	/* The slot that just fired is free, so that this cannot fail. */
	KVC_INVARIANT(kvc_timer_start(daemon->loop, timer, daemon->watchdog_ms) == KVC_OK);
}

static void ready_line(const struct kvc_daemon *daemon)
{
	char disk[KVC_CONF_TEXT_BYTES + 64] = "no disk";
	char gpus[KVC_CONF_TEXT_BYTES];

	if (daemon->disk)
		snprintf(disk, sizeof disk, "disk %s %" PRIu64 " MiB by %s, %s", daemon->conf.disk,
		         daemon->conf.disk_size >> 20, kvc_io_backend_name(daemon->io),
		         kvc_stat_get(kvc_stats_cell(daemon->stats, "disk.direct")) ? "direct" : "buffered");
	kvc_daemon_gpus_describe(daemon, gpus, sizeof gpus);
	kvc_info("kvcellard " KVCELLAR_VERSION " ready on %s: ram %" PRIu64 " MiB, %s, %" PRIu64
	         " threads, codec %s%s",
	         daemon->listen.lock_fd < 0 ? "a passed socket" : daemon->listen.path,
	         kvc_arena_bytes(daemon->arena) >> 20, disk, daemon->conf.threads,
	         kvc_codec_get((enum kvc_simd)daemon->conf.simd)->name, gpus);
}

static kvc_status ready_start(struct kvc_daemon *daemon)
{
	kvc_turn_set(LOOP_TURN_US);
	daemon->watchdog_ms = kvc_notify_watchdog_ms() / 2;
	daemon->watchdog.fire = watchdog_feed;
	if (daemon->watchdog_ms &&
	    kvc_timer_start(daemon->loop, &daemon->watchdog, daemon->watchdog_ms) != KVC_OK) {
		kvc_error("no memory for the watchdog's timer");
		return KVC_NO_MEMORY;
	}
	ready_line(daemon);
	daemon->ready = true;
	kvc_notify("READY=1\nSTATUS=serving");
	return KVC_OK;
}

static void ready_stop(struct kvc_daemon *daemon)
{
	daemon->ready = false;
	kvc_timer_stop(&daemon->watchdog);
}

/* ---- the table ----------------------------------------------------------------------------- */

static const struct step steps[] = {
        {"socket", listen_start, listen_stop},
        {"statistics", stats_start, stats_stop},
        {"memory", arena_start, arena_stop},
        {"engine", engine_start, engine_stop},
        {"gpu", kvc_daemon_gpus_start, kvc_daemon_gpus_stop},
        {"input/output", io_start, io_stop},
        {"disk", disk_start, disk_stop},
        {"cache", cache_start, cache_stop},
        {"recovery", recover_start, recover_stop},
        {"service", rpc_start, rpc_stop},
        {"ready", ready_start, ready_stop},
};

enum { STEPS = sizeof steps / sizeof steps[0] };

static void begin_stop(struct kvc_daemon *daemon)
{
	daemon->stopping = true;
	if (!daemon->stop_began_ms)
		daemon->stop_began_ms = kvc_loop_now_ms(daemon->loop);
}

static void step_up(struct kvc_daemon *daemon)
{
	const struct step *step = &steps[daemon->step];
	kvc_status status = step->start(daemon);

	if (status == KVC_OK) {
		daemon->step++;
		return;
	}
	kvc_debug("start failed at step '%s'", step->name);
	daemon->failed = true;
	begin_stop(daemon);
}

static void step_down(struct kvc_daemon *daemon)
{
	const struct step *step = &steps[--daemon->step];

	kvc_debug("stopping '%s'", step->name);
	step->stop(daemon);
}

static void walk(struct kvc_daemon *daemon)
{
	while (!daemon->waiting) {
		if (!daemon->stopping && daemon->stop_wanted)
			begin_stop(daemon);
		if (!daemon->stopping && daemon->step == STEPS)
			return;
		if (!daemon->stopping) {
			step_up(daemon);
		} else if (daemon->step) {
			step_down(daemon);
		} else {
			kvc_timer_stop(&daemon->stop_guard);
			kvc_loop_stop(daemon->loop);
			return;
		}
	}
}

/* The walk goes on in a task of its own: whoever calls this may be about to be closed by the next step. */
void kvc_daemon_step_done(struct kvc_daemon *daemon, kvc_status status)
{
	KVC_PRE(daemon->waiting);
	daemon->waiting = false;
	if (status != KVC_OK) {
		daemon->failed = true;
		begin_stop(daemon);
	}
	kvc_loop_defer(daemon->loop, &daemon->go);
}

static void go_run(struct kvc_task *task)
{
	walk(kvc_container_of(task, struct kvc_daemon, go));
}

/* ---- signals ------------------------------------------------------------------------------- */

static void stop_overdue(struct kvc_timer *timer)
{
	const struct kvc_daemon *daemon = kvc_container_of(timer, struct kvc_daemon, stop_guard);

	kvc_error("stop hangs at '%s': ending at once; what was stored durably stays",
	          daemon->step < STEPS ? steps[daemon->step].name : "ready");
	_exit(1);
}

static void stop_signal(void *context, int number)
{
	struct kvc_daemon *daemon = context;

	if (daemon->stop_wanted) {
		kvc_warn("signal %d again: ending at once", number);
		_exit(1);
	}
	kvc_info("signal %d: stopping", number);
	kvc_notify("STOPPING=1\nSTATUS=stopping");
	if (daemon->recovering) {
		kvc_info("the disk tier, which was being read back, stays as it is: ending at once");
		_exit(0); /* nobody was served, and the next start begins where this one did */
	}
	daemon->stop_wanted = true;
	daemon->stop_began_ms = kvc_loop_now_ms(daemon->loop);
	daemon->stop_guard.fire = stop_overdue;
	if (kvc_timer_start(daemon->loop, &daemon->stop_guard,
	                    daemon->conf.stop_timeout_ms + STOP_GRACE_MS) != KVC_OK)
		kvc_warn("no memory for the timer that bounds the stop");
	kvc_daemon_gpus_give_up(daemon);
	kvc_loop_defer(daemon->loop, &daemon->go);
}

static void reload_signal(void *context, int number)
{
	(void)number;
	kvc_daemon_reload(context);
}

static kvc_status signals_open(struct kvc_daemon *daemon)
{
	kvc_status status = kvc_loop_on_signal(daemon->loop, SIGTERM, stop_signal, daemon);

	if (status == KVC_OK)
		status = kvc_loop_on_signal(daemon->loop, SIGINT, stop_signal, daemon);
	if (status == KVC_OK)
		status = kvc_loop_on_signal(daemon->loop, SIGHUP, reload_signal, daemon);
	return status;
}

int kvc_daemon_run(struct kvc_daemon *daemon)
{
	if (kvc_loop_open(&daemon->loop) != KVC_OK) {
		kvc_error("the event loop cannot be set up: out of memory or descriptors");
		return 1;
	}
	daemon->go.run = go_run;
	if (signals_open(daemon) != KVC_OK) {
		kvc_error("signal handlers cannot be set up");
		daemon->failed = true;
		begin_stop(daemon);
	}
	kvc_loop_defer(daemon->loop, &daemon->go);
	kvc_loop_run(daemon->loop);
	kvc_loop_close(daemon->loop);
	if (!daemon->failed)
		kvc_info("stopped");
	return daemon->failed ? 1 : 0;
}
