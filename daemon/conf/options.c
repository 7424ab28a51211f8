/* The one table of options. Everything that reads, prints or explains the configuration walks it. */
#include <assert.h>
#include <string.h>

#include "daemon/conf/table.h"

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)
#define TIB (1024ull * GIB)

#define AT(field) .offset = offsetof(struct kvc_conf, field)

static const char *const log_levels[] = {"error", "warn", "info", "debug", "trace", NULL};
static const char *const io_backends[] = {"auto", "io_uring", "threads", NULL};
static const char *const policies[] = {"chain-lru", "lru", "arc", "s3-fifo", "gdsf", NULL};
static const char *const simd_levels[] = {"auto", "scalar", "avx2", "avx512", NULL};

const struct kvc_option kvc_options[] = {
        {.section = "service",
         .name = "socket",
         .type = KVC_OPTION_TEXT,
         .automatic = true,
         AT(socket),
         .initial = "auto",
         .help = "Unix socket that clients connect to. auto: kvcellar.sock in $RUNTIME_DIRECTORY (a "
                 "service), in "
                 "/run/kvcellar (root) or in $XDG_RUNTIME_DIR. Ignored if the service manager passes a "
                 "socket."},
        {.section = "service",
         .name = "socket-mode",
         .type = KVC_OPTION_MODE,
         AT(socket_mode),
         .max = 0777,
         .initial = "0600",
         .help = "Permission bits of the socket."},
        {.section = "service",
         .name = "allow-uids",
         .type = KVC_OPTION_USERS,
         .live = true,
         AT(allow_uids),
         .initial = "",
         .help = "Users that may connect, besides root and the daemon's own. The socket's mode must let "
                 "them in."},
        {.section = "service",
         .name = "allow-gids",
         .type = KVC_OPTION_GROUPS,
         .live = true,
         AT(allow_gids),
         .initial = "",
         .help = "Groups whose members may connect."},
        {.section = "service",
         .name = "log-level",
         .type = KVC_OPTION_CHOICE,
         .live = true,
         AT(log_level),
         .choices = log_levels,
         .initial = "info",
         .help = "What is written to stderr: everything up to this level."},
        {.section = "service",
         .name = "stop-timeout-ms",
         .type = KVC_OPTION_MS,
         .live = true,
         AT(stop_timeout_ms),
         .max = 600000,
         .initial = "10000",
         .help = "How long a stop may take: running requests finish in the first half, blocks that rest in "
                 "RAM "
                 "only go to disk in the second."},

        {.section = "memory",
         .name = "ram",
         .type = KVC_OPTION_SIZE,
         .automatic = true,
         AT(ram),
         .min = 1 * MIB,
         .max = 64 * TIB,
         .initial = "auto",
         .help = "Memory for stored blocks. auto: a quarter of what is available to the process, at most "
                 "4G."},
        {.section = "memory",
         .name = "policy",
         .type = KVC_OPTION_CHOICE,
         AT(policy),
         .choices = policies,
         .initial = "chain-lru",
         .help = "Which block leaves memory first. chain-lru: the least recently used, of a sequence the "
                 "last. lru, "
                 "arc, s3-fifo: as published. gdsf: by uses and by the cost of recomputing. 'kvcellar "
                 "replay' "
                 "compares them."},
        {.section = "memory",
         .name = "tenant-idle-ms",
         .type = KVC_OPTION_MS,
         .live = true,
         AT(tenant_idle_ms),
         .min = 1000,
         .max = 86400000,
         .initial = "600000",
         .help = "After so long without a put or a get nothing is kept in memory for a tenant: its blocks go "
                 "first when others want room."},

        {.section = "disk",
         .name = "disk",
         .type = KVC_OPTION_TEXT,
         AT(disk),
         .initial = "",
         .help = "Directory of the disk tier, made if missing, used by one daemon at a time; or several, "
                 "separated by commas, that share the blocks and fail one by one. Empty: no disk tier."},
        {.section = "disk",
         .name = "disk-size",
         .type = KVC_OPTION_SIZE,
         AT(disk_size),
         .min = 16 * MIB,
         .max = 4096 * TIB,
         .initial = "16G",
         .help = "Bytes that the disk tier may use, in all its directories together."},
        {.section = "disk",
         .name = "disk-budget",
         .type = KVC_OPTION_WEAR,
         AT(disk_budget),
         .max = 4096 * TIB,
         .initial = "0",
         .help = "What may be written to the disk tier in a day, so that the drive lasts: bytes, or drive "
                 "writes, such as 0.5dwpd: parts of disk-size. Blocks that were used again or came back are "
                 "written first, of others the heads of prompts. 0: no limit. A put that asks for the disk "
                 "is always written. The account is kept over restarts."},
        {.section = "disk",
         .name = "segment-size",
         .type = KVC_OPTION_SIZE,
         .automatic = true,
         AT(segment_size),
         .min = 1 * MIB,
         .max = 1 * GIB,
         .initial = "auto",
         .help = "Size of a segment file, the unit in which disk space is reclaimed; at most a quarter of "
                 "disk-size. "
                 "auto: as the directory has it, or from disk-size."},
        {.section = "disk",
         .name = "disk-key",
         .type = KVC_OPTION_TEXT,
         AT(disk_key),
         .initial = "",
         .help = "File with the key that blocks on disk are encrypted under: 32 bytes or 64 hex digits, open "
                 "to "
                 "nobody else. credential:NAME takes it from systemd's LoadCredential=. A directory that was "
                 "opened with a key needs it ever after. Empty: what is written is not encrypted."},
        {.section = "disk",
         .name = "scrub-rate",
         .type = KVC_OPTION_SIZE,
         AT(scrub_rate),
         .min = 0,
         .max = 64 * GIB,
         .initial = "8M",
         .help = "Bytes a second that are read and checked on the disk while it has nothing else to do, and "
                 "as many that rest in RAM. 0: none."},
        {.section = "disk",
         .name = "disk-health",
         .type = KVC_OPTION_TEXT,
         AT(disk_health),
         .initial = "auto",
         .help = "Where the health of the disk tier's drives is read. auto: from the drives (NVMe; needs "
                 "CAP_SYS_ADMIN). none: nowhere. Else a file that somebody keeps up to date, or one for each "
                 "directory, separated by commas. A drive that is failing or worn out is not written any "
                 "more."},
        {.section = "disk",
         .name = "disk-health-ms",
         .type = KVC_OPTION_MS,
         AT(disk_health_ms),
         .min = 10,
         .max = 86400000,
         .initial = "600000",
         .help = "How often it is read."},
        {.section = "disk",
         .name = "verify-on-start",
         .type = KVC_OPTION_BOOL,
         AT(verify_on_start),
         .initial = "no",
         .help = "Check the contents of every recovered block at start, not only its header. Contents are "
                 "always "
                 "checked before they are handed out."},
        {.section = "disk",
         .name = "io-backend",
         .type = KVC_OPTION_CHOICE,
         AT(io_backend),
         .choices = io_backends,
         .initial = "auto",
         .help = "How the disk is read and written. auto: io_uring, or threads where the kernel refuses it."},
        {.section = "disk",
         .name = "io-depth",
         .type = KVC_OPTION_COUNT,
         AT(io_depth),
         .min = 1,
         .max = 1024,
         .initial = "64",
         .help = "Disk requests under way at a time."},

        {.section = "codec",
         .name = "threads",
         .type = KVC_OPTION_COUNT,
         .automatic = true,
         AT(threads),
         .min = 1,
         .max = 256,
         .initial = "auto",
         .help = "Threads that encode and decode blocks. auto: the processors that the daemon may run on."},
        {.section = "codec",
         .name = "simd",
         .type = KVC_OPTION_CHOICE,
         AT(simd),
         .choices = simd_levels,
         .initial = "auto",
         .help = "Instruction set of the codec; all give the same bytes. auto: the best that the processor "
                 "has."},

        {.section = "gpu",
         .name = "gpus",
         .type = KVC_OPTION_GPUS,
         AT(gpus),
         .initial = "none",
         .help = "GPUs whose workers are served from their own memory, by CUDA's numbers; each gets an "
                 "engine "
                 "process. auto: all that there are, which may be none. A GPU that cannot be used is an "
                 "error "
                 "at start."},
        {.section = "gpu",
         .name = "gpu-engine",
         .type = KVC_OPTION_TEXT,
         .automatic = true,
         AT(gpu_engine),
         .initial = "auto",
         .help = "Program of the engine process. auto: kvcellar-engine beside kvcellard, in ../libexec from "
                 "there, or in $PATH."},
        {.section = "gpu",
         .name = "gpu-sms",
         .type = KVC_OPTION_COUNT,
         .automatic = true,
         AT(gpu_sms),
         .min = 1,
         .max = 1024,
         .initial = "auto",
         .help = "Multiprocessors that a launch of the codec takes at most. auto: 32 where kernels of "
                 "several "
                 "processes run at the same time (MPS), all where they take turns."},
        {.section = "gpu",
         .name = "gpu-low-priority",
         .type = KVC_OPTION_BOOL,
         AT(gpu_low_priority),
         .initial = "yes",
         .help = "Let kernels of higher priority in the same context go first; between processes it counts "
                 "under MPS only."},
        {.section = "gpu",
         .name = "vram",
         .type = KVC_OPTION_SIZE,
         AT(vram),
         .max = 4 * TIB,
         .initial = "0",
         .help = "Device memory of each GPU for stored blocks. 0: blocks go to RAM at once."},
        {.section = "gpu",
         .name = "gpu-staging",
         .type = KVC_OPTION_SIZE,
         AT(gpu_staging),
         .min = 64 * MIB,
         .max = 64 * GIB,
         .initial = "512M",
         .help = "Device memory of each GPU for blocks on their way to or from RAM."},
        {.section = "gpu",
         .name = "gpu-hang-ms",
         .type = KVC_OPTION_MS,
         AT(gpu_hang_ms),
         .min = 3000, /* above KVC_GPU_GATE_MS, for which a sound engine may have nothing to answer */
         .max = 600000,
         .initial = "5000",
         .help = "An engine that answers nothing for so long is killed and started again."},

        {.section = "limits",
         .name = "connections",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(connections),
         .min = 1,
         .max = 65536,
         .initial = "1024",
         .help = "Connections in total."},
        {.section = "limits",
         .name = "connections-per-uid",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(connections_per_uid),
         .min = 1,
         .max = 65536,
         .initial = "512",
         .help = "Connections of one user."},
        {.section = "limits",
         .name = "inflight",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(inflight),
         .min = 16,
         .max = 65536,
         .initial = "256",
         .help = "Unanswered requests of one connection; above, it is not read from."},
        {.section = "limits",
         .name = "batch",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(batch),
         .min = 1,
         .max = 4096,
         .initial = "1024",
         .help = "Blocks of one put or get, keys of one look-up."},
        {.section = "limits",
         .name = "operations",
         .type = KVC_OPTION_COUNT,
         AT(operations),
         .min = 1,
         .max = 1048576,
         .initial = "16384",
         .help = "Unfinished block operations of all connections; above, requests are answered with busy. "
                 "Unanswered requests may have four times as many blocks (16384 at least)."},
        {.section = "limits",
         .name = "moves",
         .type = KVC_OPTION_COUNT,
         AT(moves),
         .min = 1,
         .max = 4096,
         .initial = "64",
         .help = "Blocks that are coded at a time, and blocks that are on their way to or from the disk."},
        {.section = "limits",
         .name = "namespaces",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(namespaces),
         .min = 1,
         .max = 4096,
         .initial = "64",
         .help = "Open namespaces of one connection."},
        {.section = "limits",
         .name = "regions",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(regions),
         .min = 1,
         .max = 4096,
         .initial = "256",
         .help = "Attached memory regions and pools of one connection. A pool may have a region a layer."},
        {.section = "limits",
         .name = "region-max",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(region_max),
         .min = 4 * KIB,
         .max = 64 * TIB,
         .initial = "64G",
         .help = "Size of all attached memory regions of one connection."},
        {.section = "limits",
         .name = "pins",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(pins),
         .min = 1,
         .max = 16777216,
         .initial = "65536",
         .help = "Blocks that one connection may pin."},
        {.section = "limits",
         .name = "inline-max",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(inline_max),
         .min = 4 * KIB,
         .max = 1 * GIB,
         .initial = "64M",
         .help = "Payload of one request that carries blocks through the socket."},
        {.section = "limits",
         .name = "inline-budget",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(inline_budget),
         .min = 4 * KIB,
         .max = 1 * TIB,
         .initial = "256M",
         .help = "Memory for such payloads of all connections; above, they are answered with busy."},
        {.section = "limits",
         .name = "deadline-default-ms",
         .type = KVC_OPTION_MS,
         .live = true,
         AT(deadline_default_ms),
         .min = 1,
         .max = 3600000,
         .initial = "1000",
         .help = "Deadline of requests that name none."},
        {.section = "limits",
         .name = "deadline-max-ms",
         .type = KVC_OPTION_MS,
         .live = true,
         AT(deadline_max_ms),
         .min = 1,
         .max = 3600000,
         .initial = "60000",
         .help = "Longest deadline of a request; one that names a longer one gets this."},
        {.section = "limits",
         .name = "stall-timeout-ms",
         .type = KVC_OPTION_MS,
         .live = true,
         AT(stall_timeout_ms),
         .min = 10,
         .max = 600000,
         .initial = "5000",
         .help = "A connection is dropped if a message that began, or 256K of a longer one, takes longer "
                 "than this "
                 "to arrive or to be taken."},
};

const unsigned kvc_option_count = sizeof kvc_options / sizeof kvc_options[0];

static_assert(sizeof kvc_options / sizeof kvc_options[0] <= sizeof(struct kvc_option_seen),
              "a bit for every option");

size_t kvc_option_value_bytes(const struct kvc_option *option)
{
	switch (option->type) {
	case KVC_OPTION_TEXT:
		return KVC_CONF_TEXT_BYTES;
	case KVC_OPTION_USERS:
	case KVC_OPTION_GROUPS:
		return sizeof(struct kvc_conf_ids);
	case KVC_OPTION_GPUS:
		return sizeof(struct kvc_conf_gpus);
	default:
		return sizeof(uint64_t);
	}
}

const struct kvc_option *kvc_option_find(const char *name)
{
	for (unsigned i = 0; i < kvc_option_count; i++) {
		if (strcmp(kvc_options[i].name, name) == 0)
			return &kvc_options[i];
	}
	return NULL;
}

bool kvc_section_known(const char *name)
{
	for (unsigned i = 0; i < kvc_option_count; i++) {
		if (strcmp(kvc_options[i].section, name) == 0)
			return true;
	}
	return false;
}
