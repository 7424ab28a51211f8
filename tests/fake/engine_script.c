/* Stands in for kvcellar-engine: speaks gpu_wire.h as $KVC_SCRIPT says, words separated by commas, some with
 * "=number". Without any word it answers everything as if it had worked, and writes what it was asked into
 * the image.
 *
 * At start:    exit, never-ready, refuse, wire, rubbish, early, short-ready, inherited, uuid=N
 * Jobs:        die-after=N, abort-after=N, refuse-after=N, hang-after=N, stuck, held, begun, slow=MS,
 *              idle-death=MS, idles
 * Results:     lost, unknown, twice, long, short, status, count, big, no-space
 * Memory:      import-fails, import-silent, pool-fails, unimport-fails, reply-unknown, reply-status,
 *              import-chance=N, pool-chance=N
 * Any message: die-at=N
 * Of what it is told of regions and pools it keeps account if the word is "strict". What cannot be is written
 * to the end of the arena, where the test finds it.
 * At the end:  lingers */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/gpu_wire.h"
#include "tests/fake/engine_script.h"

enum { FDS_MAX = 253, RESULTS_MAX = 2000, OBJECTS_MAX = 256, BASES_MAX = 8 };

/* A region, or a pool with the regions that it lies in. */
struct object {
	uint32_t id; /* 0: free */
	uint32_t bases[BASES_MAX];
	uint32_t base_count;
	bool closing; /* a region, when no pool lies in it any more */
};

struct script {
	uint8_t *arena;
	uint64_t arena_bytes;
	uint64_t jobs;
	uint64_t messages;
	struct object regions[OBJECTS_MAX];
	struct object pools[OBJECTS_MAX];
	struct kvc_gpu_result begun;
	struct kvc_gpu_gauges gauges;
	int fds[FDS_MAX]; /* of the packet at hand */
	uint32_t fd_count;
	_Alignas(8) uint8_t in[KVC_GPU_MESSAGE_BYTES];
};

static struct script script;

/* ---- what it shall do ---------------------------------------------------------------------- */

/* The number behind a word, 1 if there is none; 0: the word is not there. */
static uint64_t word(const char *name)
{
	const char *text = getenv("KVC_SCRIPT");
	size_t bytes = strlen(name);

	for (; text && *text; text += strcspn(text, ","), text += *text == ',') {
		if (strncmp(text, name, bytes))
			continue;
		if (text[bytes] == '=')
			return strtoull(text + bytes + 1, NULL, 10);
		if (text[bytes] == ',' || !text[bytes])
			return 1;
	}
	return 0;
}

static void sleep_ms(uint64_t ms)
{
	nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
}

/* Until the core closes the pair, or for ever. */
static _Noreturn void hang(void)
{
	for (;;)
		pause();
}

static void say(const void *message, size_t bytes)
{
	if (send(KVC_GPU_FD, message, bytes, MSG_NOSIGNAL) < 0)
		_exit(4);
}

static void refuse(const char *detail)
{
	struct kvc_gpu_failed failed = {.header = {.type = KVC_GPU_FAILED}, .status = KVC_UNAVAILABLE};

	snprintf(failed.detail, sizeof failed.detail, "%s", detail);
	say(&failed, sizeof failed);
	_exit(1);
}

/* ---- start --------------------------------------------------------------------------------- */

/* Descriptors that nobody meant for us. */
static void inherited_check(void)
{
	char text[64] = "inherited:";
	DIR *folder = opendir("/proc/self/fd");
	bool found = false;

	for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
		int fd = atoi(entry->d_name);

		if (fd <= KVC_GPU_FD || fd == dirfd(folder) || fd == script.fds[0])
			continue;
		found = true;
		snprintf(text + strlen(text), sizeof text - strlen(text), " %d", fd);
	}
	closedir(folder);
	if (found)
		refuse(text);
}

static void say_ready(void)
{
	struct kvc_gpu_ready ready = {
	        .header = {.type = KVC_GPU_READY},
	        .wire = KVC_GPU_WIRE + (uint32_t)word("wire"),
	        .sms = 132,
	        .uuid = {(uint8_t)word("uuid")},
	        .name = "Scripted \n GPU",
	        .device_bytes = 1000,
	};

	say(&ready, word("wire") ? 12 : word("short-ready") ? 8 : sizeof ready);
}

static void arena_map(const struct kvc_gpu_start *start)
{
	struct stat stat;

	if (script.fd_count != 1 || fstat(script.fds[0], &stat) ||
	    (uint64_t)stat.st_size < start->arena_bytes)
		refuse("no arena");
	script.arena_bytes = start->arena_bytes;
	script.arena = mmap(NULL, start->arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, script.fds[0], 0);
	if (script.arena == MAP_FAILED)
		refuse("the arena cannot be mapped");
}

static void take_start(const struct kvc_gpu_start *start)
{
	const struct kvc_gpu_header early = {KVC_GPU_DONE, 0};

	if (start->wire != KVC_GPU_WIRE)
		refuse("wrong version");
	if (word("inherited"))
		inherited_check();
	arena_map(start);
	if (word("refuse"))
		refuse("no such \x1b GPU");
	if (word("never-ready")) {
		fputs("scripted engine: never ready\n", stderr);
		hang();
	}
	if (word("rubbish"))
		say("rubbish", 7);
	else if (word("early"))
		say(&early, sizeof early);
	else
		say_ready();
	if (word("idle-death")) {
		sleep_ms(word("idle-death"));
		_exit(5);
	}
}

/* ---- memory -------------------------------------------------------------------------------- */

static void reply(const struct kvc_gpu_header *to, kvc_status status, const char *detail)
{
	struct kvc_gpu_reply answer = {.header = {KVC_GPU_REPLY, to->id}, .to = to->type, .status = status};

	snprintf(answer.detail, sizeof answer.detail, "%s", detail);
	if (word("reply-unknown"))
		answer.header.id += 100;
	if (word("reply-status"))
		answer.status = KVC_STATUS_COUNT;
	say(&answer, sizeof answer);
}

static void say_gauges(void)
{
	script.gauges.header.type = KVC_GPU_GAUGES;
	say(&script.gauges, sizeof script.gauges);
}

/* ---- the account of it --------------------------------------------------------------------- */

static void complain(const char *what, uint32_t id)
{
	char *place = (char *)script.arena + script.arena_bytes - SCRIPT_COMPLAINT_BYTES;

	if (word("strict") && !*place)
		snprintf(place, SCRIPT_COMPLAINT_BYTES, "%s %u", what, id);
}

static struct object *object_find(struct object *objects, uint32_t id)
{
	for (uint32_t i = 0; i < OBJECTS_MAX; i++)
		if (objects[i].id == id)
			return &objects[i];
	return NULL;
}

static struct object *object_add(struct object *objects, uint32_t id)
{
	struct object *free = object_find(objects, 0);

	if (object_find(objects, id))
		complain("opened twice:", id);
	*free = (struct object){.id = id};
	return free;
}

static bool region_is_used(uint32_t id)
{
	for (uint32_t i = 0; i < OBJECTS_MAX; i++)
		for (uint32_t k = 0; script.pools[i].id && k < script.pools[i].base_count; k++)
			if (script.pools[i].bases[k] == id)
				return true;
	return false;
}

static void pool_add(const struct kvc_gpu_pool *wish, uint32_t count)
{
	const struct kvc_gpu_base *bases = (const void *)(wish + 1);
	struct object *pool = object_add(script.pools, wish->header.id);

	for (uint32_t i = 0; i < count && i < BASES_MAX; i++) {
		const struct object *region = object_find(script.regions, bases[i].region);

		if (!region || region->closing)
			complain("a pool in what is no region:", bases[i].region);
		pool->bases[pool->base_count++] = bases[i].region;
	}
}

/* One of so many fails. */
static bool by_chance(const char *name)
{
	uint64_t n = word(name);

	return n && (script.messages * 2654435761u >> 16) % n == 0;
}

/* Each chunk must be as long as is said. */
static bool chunks_right(const struct kvc_gpu_import *import)
{
	struct stat stat;

	if (import->chunks != script.fd_count)
		return false;
	for (uint32_t i = 0; i < import->chunks; i++) {
		if (fstat(script.fds[i], &stat) || (uint64_t)stat.st_size != import->chunk_bytes[i])
			return false;
	}
	return true;
}

static void take_import(const struct kvc_gpu_import *import)
{
	if (word("import-silent"))
		return;
	if (word("import-fails") || by_chance("import-chance") || !chunks_right(import)) {
		reply(&import->header, KVC_INVALID, "larger than the allocation");
		return;
	}
	object_add(script.regions, import->header.id);
	script.gauges.pinned_bytes++;
	script.gauges.device_bytes += import->bytes;
	reply(&import->header, KVC_OK, "");
	say_gauges();
}

static void region_end(uint32_t id)
{
	const struct kvc_gpu_header header = {KVC_GPU_UNIMPORT, id};

	object_find(script.regions, id)->id = 0;
	script.gauges.pinned_bytes--;
	reply(&header, KVC_OK, "");
	say_gauges();
}

static void take_unimport(const struct kvc_gpu_header *header)
{
	struct object *region = object_find(script.regions, header->id);

	if (word("unimport-fails")) {
		reply(header, KVC_IN_USE, "a pool lies in it");
		return;
	}
	if (!region || region->closing)
		complain("closed, and no region:", header->id);
	else if (region_is_used(header->id))
		region->closing = true;
	else
		region_end(header->id);
}

static void take_pool_close(const struct kvc_gpu_header *header)
{
	struct object *pool = object_find(script.pools, header->id);

	if (!pool) {
		complain("closed, and no pool:", header->id);
		return;
	}
	pool->id = 0;
	reply(header, KVC_OK, "");
	for (uint32_t i = 0; i < OBJECTS_MAX; i++)
		if (script.regions[i].id && script.regions[i].closing &&
		    !region_is_used(script.regions[i].id))
			region_end(script.regions[i].id);
}

static void take_pool(const struct kvc_gpu_pool *pool, size_t bytes)
{
	uint32_t kinds = pool->geometry.value_dim ? 2 : 1;
	size_t right = sizeof *pool + kinds * pool->geometry.layers * sizeof(struct kvc_gpu_base);

	if (word("pool-fails") || by_chance("pool-chance") || bytes != right) {
		reply(&pool->header, KVC_SHAPE, "a page lies outside");
		return;
	}
	pool_add(pool, kinds * pool->geometry.layers);
	reply(&pool->header, KVC_OK, "");
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void fate(void)
{
	uint64_t n = ++script.jobs;

	if (n == word("die-after"))
		raise(SIGKILL);
	if (n == word("abort-after"))
		abort();
	if (n == word("refuse-after"))
		refuse("an illegal address");
	if (n == word("hang-after"))
		hang();
}

/* What was asked, where the image would be. */
static void image_write(const struct kvc_gpu_jobs *jobs, const struct kvc_gpu_job *job, const uint32_t *pages)
{
	uint32_t words[16] = {jobs->op, jobs->header.id, job->first_token, job->page_count};

	if (word("idles") || job->image == KVC_GPU_NOWHERE || job->image + sizeof words > script.arena_bytes)
		return;
	for (uint32_t i = 0; i < job->page_count && i < 12; i++)
		words[4 + i] = pages[i];
	memcpy(script.arena + job->image, words, sizeof words);
}

static struct kvc_gpu_result job_result(const struct kvc_gpu_jobs *jobs, const struct kvc_gpu_job *job)
{
	struct kvc_gpu_result result = {.seq = job->seq, .length = job->image_bytes};
	struct kvc_image_plan plan;

	if (kvc_image_plan_init(&plan, &jobs->shape, &jobs->codec) != KVC_OK)
		result.status = KVC_SHAPE;
	if (job->image == KVC_GPU_NOWHERE)
		result.length = plan.image_bytes;
	if (word("unknown"))
		result.seq += 7;
	if (word("long"))
		result.length = plan.raw_image_bytes + 1;
	if (word("short"))
		result.length = 8;
	if (word("status"))
		result.status = 9999;
	if (word("lost"))
		result.status = KVC_ENGINE_LOST;
	if (word("no-space")) {
		result.status = KVC_NO_SPACE;
		result.length += 64;
	}
	return result;
}

static void say_done(const struct kvc_gpu_result *results, uint32_t count)
{
	_Alignas(8) static uint8_t out[2 * KVC_GPU_MESSAGE_BYTES];
	struct kvc_gpu_header header = {KVC_GPU_DONE, count};
	size_t bytes = sizeof header + count * sizeof *results;

	if (word("count"))
		header.id += 3;
	if (word("big"))
		bytes = sizeof out;
	memcpy(out, &header, sizeof header);
	memcpy(out + sizeof header, results, count * sizeof *results);
	say(out, bytes);
	if (word("twice"))
		say(out, bytes);
}

static void take_jobs(const struct kvc_gpu_jobs *jobs)
{
	static struct kvc_gpu_result results[RESULTS_MAX];
	const struct kvc_gpu_job *job = (const struct kvc_gpu_job *)(const void *)(jobs + 1);
	const uint32_t *pages = (const uint32_t *)(const void *)(job + jobs->count);
	uint32_t count = 0;

	if (jobs->op != KVC_ENGINE_LOWER && !object_find(script.pools, jobs->header.id))
		complain("jobs of what is no pool:", jobs->header.id);
	for (uint32_t i = 0; i < jobs->count && i < RESULTS_MAX; i++, job++) {
		fate();
		image_write(jobs, job, pages);
		pages += job->page_count;
		if (word("begun"))
			script.begun = job_result(jobs, job);
		else if ((script.jobs > 1 || !word("stuck")) && !word("held"))
			results[count++] = job_result(jobs, job);
	}
	script.gauges.launches++;
	script.gauges.launched_blocks += jobs->count;
	say_gauges();
	if (count)
		say_done(results, count);
}

/* Jobs that are held wait for their worker's mark until they are cancelled; one that has begun ends. */
static void take_cancel(const struct kvc_gpu_header *header)
{
	const uint64_t *seqs = (const void *)(header + 1);
	struct kvc_gpu_result results[RESULTS_MAX];

	if (word("begun"))
		say_done(&script.begun, 1);
	if (!word("held"))
		return;
	for (uint32_t i = 0; i < header->id && i < RESULTS_MAX; i++)
		results[i] = (struct kvc_gpu_result){.seq = seqs[i], .status = KVC_CANCELLED};
	say_done(results, header->id);
}

/* ---- packets ------------------------------------------------------------------------------- */

static void fds_take(struct msghdr *message)
{
	script.fd_count = 0;
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
		size_t bytes = part->cmsg_len - CMSG_LEN(0);

		memcpy(script.fds, CMSG_DATA(part), bytes);
		script.fd_count = (uint32_t)(bytes / sizeof(int));
	}
}

static ssize_t receive(void)
{
	static union {
		struct cmsghdr header;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec piece = {script.in, sizeof script.in};
	struct msghdr message = {.msg_iov = &piece,
	                         .msg_iovlen = 1,
	                         .msg_control = &control,
	                         .msg_controllen = sizeof control};
	ssize_t bytes;

	if (word("slow"))
		sleep_ms(word("slow"));
	bytes = recvmsg(KVC_GPU_FD, &message, MSG_CMSG_CLOEXEC);
	if (bytes > 0)
		fds_take(&message);
	return bytes;
}

static void take(size_t bytes)
{
	const void *message = script.in;
	const struct kvc_gpu_header *header = message;

	if (++script.messages == word("die-at"))
		raise(SIGKILL);
	switch (header->type) {
	case KVC_GPU_START:
		take_start(message);
		break;
	case KVC_GPU_IMPORT:
		take_import(message);
		break;
	case KVC_GPU_UNIMPORT:
		take_unimport(message);
		break;
	case KVC_GPU_POOL_OPEN:
		take_pool(message, bytes);
		break;
	case KVC_GPU_POOL_CLOSE:
		take_pool_close(header);
		break;
	case KVC_GPU_JOBS:
		take_jobs(message);
		break;
	case KVC_GPU_CANCEL:
		take_cancel(header);
		break;
	default:
		refuse("unknown message");
	}
	while (script.fd_count)
		close(script.fds[--script.fd_count]);
}

int main(void)
{
	ssize_t bytes;

	if (word("exit"))
		return 3;
	while ((bytes = receive()) > 0)
		take((size_t)bytes);
	if (word("lingers"))
		hang();
	return 0;
}
