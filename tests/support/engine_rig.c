/* See engine_rig.h. */
#include "tests/support/engine_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 60000

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "engine rig: %s: %s\n", what, strerror(errno));
	abort();
}

/* The program lies beside the tests: bin/tests/unit/x and bin/tests/fake/kvcellar-engine-fake. */
static void program_path(char path[512])
{
	ssize_t bytes = readlink("/proc/self/exe", path, 400);
	char *slash;

	must(bytes > 0, "own path");
	path[bytes] = 0;
	for (int i = 0; i < 2; i++) {
		slash = strrchr(path, '/');
		must(slash != NULL, "own path");
		*slash = 0;
	}
	strcat(path, "/fake/kvcellar-engine-fake");
}

void kvc_engine_rig_init(struct kvc_engine_rig *rig, uint64_t arena_bytes)
{
	memset(rig, 0, sizeof *rig);
	kvc_test_temp_dir(rig->dir);
	must(setenv("KVC_FAKE_CUDA_DIR", rig->dir, 1) == 0, "environment");
	rig->arena_fd = memfd_create("arena", MFD_CLOEXEC);
	must(rig->arena_fd >= 0 && ftruncate(rig->arena_fd, (off_t)arena_bytes) == 0, "arena");
	rig->arena = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rig->arena_fd, 0);
	must(rig->arena != MAP_FAILED, "arena");
	rig->start = (struct kvc_gpu_start){.header.type = KVC_GPU_START,
	                                    .wire = KVC_GPU_WIRE,
	                                    .ordinal = 3,
	                                    .sms = 32,
	                                    .low_priority = 1,
	                                    .vram_bytes = 16 << 20,
	                                    .staging_bytes = 64 << 20,
	                                    .arena_bytes = arena_bytes};
}

void kvc_engine_rig_spawn(struct kvc_engine_rig *rig)
{
	char path[512];
	int ends[2];

	program_path(path);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "pair");
	fflush(NULL);
	rig->pid = fork();
	must(rig->pid >= 0, "fork");
	if (rig->pid == 0) {
		if (ends[1] == KVC_GPU_FD)
			fcntl(KVC_GPU_FD, F_SETFD, 0);
		else
			dup2(ends[1], KVC_GPU_FD);
		execl(path, "kvcellar-engine-fake", (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	rig->socket = ends[0];
}

void kvc_engine_rig_run(struct kvc_engine_rig *rig)
{
	kvc_engine_rig_spawn(rig);
	kvc_engine_rig_send(rig, &rig->start, sizeof rig->start, &rig->arena_fd, 1);
	must(kvc_engine_rig_receive(rig) == sizeof rig->ready, "READY");
	memcpy(&rig->ready, rig->packet, sizeof rig->ready);
	must(rig->ready.header.type == KVC_GPU_READY, "READY");
}

int kvc_engine_rig_ended(struct kvc_engine_rig *rig)
{
	int status;

	must(waitpid(rig->pid, &status, 0) == rig->pid, "end of the engine");
	rig->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void kvc_engine_rig_close(struct kvc_engine_rig *rig)
{
	close(rig->socket);
	if (rig->pid)
		must(kvc_engine_rig_ended(rig) == 0, "the engine ends with the pair");
	munmap(rig->arena, rig->start.arena_bytes);
	close(rig->arena_fd);
	kvc_test_temp_dir_remove(rig->dir);
}

void kvc_engine_rig_send(struct kvc_engine_rig *rig, const void *packet, size_t bytes, const int *fds,
                         uint32_t fd_count)
{
	union {
		const void *kept;
		void *base;
	} pointer = {.kept = packet};
	union {
		char bytes[CMSG_SPACE(253 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec data = {.iov_base = pointer.base, .iov_len = bytes};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

	if (fd_count) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		memset(&control, 0, sizeof control);
		*CMSG_FIRSTHDR(&message) = (struct cmsghdr){.cmsg_len = CMSG_LEN(fd_count * sizeof(int)),
		                                            .cmsg_level = SOL_SOCKET,
		                                            .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), fds, fd_count * sizeof(int));
	}
	must(sendmsg(rig->socket, &message, MSG_NOSIGNAL) == (ssize_t)bytes, "send");
}

size_t kvc_engine_rig_receive(struct kvc_engine_rig *rig)
{
	struct pollfd fd = {.fd = rig->socket, .events = POLLIN};
	const struct kvc_gpu_header *header = (const void *)rig->packet;
	ssize_t bytes;

	do {
		must(poll(&fd, 1, PATIENCE_MS) == 1, "an answer of the engine");
		bytes = recv(rig->socket, rig->packet, sizeof rig->packet, 0);
		if (bytes < 0 && errno == ECONNRESET) /* it ended with packets of ours unread */
			return 0;
		must(bytes >= 0, "receive");
	} while (bytes > 0 && header->type == KVC_GPU_GAUGES);
	return (size_t)bytes;
}

kvc_status kvc_engine_rig_reply(struct kvc_engine_rig *rig, uint32_t to, uint32_t id)
{
	const struct kvc_gpu_reply *reply = (const void *)rig->packet;

	must(kvc_engine_rig_receive(rig) == sizeof *reply && reply->header.type == KVC_GPU_REPLY, "REPLY");
	must(reply->to == to && reply->header.id == id, "REPLY to this");
	must(reply->status == KVC_OK || reply->detail[0], "a reason");
	return (kvc_status)reply->status;
}

void kvc_engine_rig_fault(struct kvc_engine_rig *rig, const char *line)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof path, "%s/fault", rig->dir);
	file = fopen(path, "we");
	must(file && fprintf(file, "%s\n", line) > 0 && fclose(file) == 0, "fault file");
}

static void *file_map(struct kvc_engine_rig *rig, const char *name, uint64_t bytes)
{
	char path[512];
	void *data;
	int fd;

	snprintf(path, sizeof path, "%s/%s", rig->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0, "device memory");
	data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(data != MAP_FAILED, "device memory");
	close(fd);
	return data;
}

void kvc_engine_rig_alloc(struct kvc_engine_rig *rig, uint64_t bytes, struct kvc_engine_rig_memory *memory)
{
	memset(memory, 0, sizeof *memory);
	snprintf((char *)memory->handle, 56, "mem-%d-%u", (int)getpid(), rig->allocations++);
	memcpy(memory->handle + 56, &bytes, sizeof bytes);
	memory->bytes = bytes;
	memory->data = file_map(rig, (const char *)memory->handle, bytes);
}

void kvc_engine_rig_free(struct kvc_engine_rig_memory *memory)
{
	munmap(memory->data, memory->bytes);
}

_Atomic uint32_t *kvc_engine_rig_marks(uint32_t words, int *fd)
{
	void *data;

	*fd = memfd_create("marks", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0 || ftruncate(*fd, words * sizeof(uint32_t)) || fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK))
		abort();
	data = mmap(NULL, words * sizeof(uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (data == MAP_FAILED)
		abort();
	return data;
}

kvc_status kvc_engine_rig_import(struct kvc_engine_rig *rig, uint32_t id,
                                 const struct kvc_engine_rig_memory *memory, uint64_t offset, uint64_t bytes)
{
	struct kvc_gpu_import import = {
	        .header = {.type = KVC_GPU_IMPORT, .id = id}, .offset = offset, .bytes = bytes};

	memcpy(import.handle, memory->handle, sizeof import.handle);
	kvc_engine_rig_send(rig, &import, sizeof import, NULL, 0);
	return kvc_engine_rig_reply(rig, KVC_GPU_IMPORT, id);
}
