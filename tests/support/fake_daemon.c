/* The fake daemon: an accept thread, a blocking thread a connection, one lock over everything but reading
 * from sockets. Replies are written under the lock, so a client that does not read stops the fake: tests
 * that want that use FAKE_FREEZE instead.
 *
 * Long because all verbs share the private structs of one small server. */
#include "tests/support/fake_daemon.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/kvcellar.pb-c.h"
#include "tests/support/fake_device.h"

#define CONNECTIONS 64u
#define IDS         64u
#define BUCKETS     4096u
#define FDS         253u

#define MUST(holds) ((holds) ? (void)0 : broken(__LINE__, #holds))

static void broken(int line, const char *what)
{
	(void)fprintf(stderr, "fake_daemon.c:%d: %s: %s\n", line, what, strerror(errno));
	abort();
}

struct request {
	struct kvc_frame frame;
	uint8_t *body;
	uint8_t *payload;
	int fds[FDS];
	unsigned fd_count;
	struct connection *connection;
	struct request *next; /* held */
};

struct namespace_ {
	char identity[512];
	uint64_t layers, heads, dims[2], element;
};

/* Memory, or a pool in device memory. */
struct region {
	uint8_t *data;
	uint64_t bytes;
	struct fake_pool *pool;
};

struct connection {
	struct fake_daemon *daemon;
	int fd; /* -1: closed */
	bool used;
	pthread_t thread;
	struct namespace_ *namespaces[IDS];
	struct region regions[IDS];
};

struct stored {
	struct stored *next;
	char identity[512];
	size_t key_bytes;
	uint8_t key[KVC_KEY_BYTES_MAX];
	uint32_t tokens;
	size_t bytes;
	uint8_t data[];
};

struct fake_daemon {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char path[108];
	struct fake_limits limits;
	int listener;
	int stop[2]; /* a pipe: readable when the accept thread is to end */
	pthread_t thread;
	struct connection connections[CONNECTIONS];
	struct fake_rule rules[KVC_VERB_COUNT];
	unsigned seen[KVC_VERB_COUNT];
	bool frozen;
	bool linger;
	struct request *held;
	struct stored *blocks[BUCKETS]; /* by key */
};

/* ---- sending ------------------------------------------------------------------------------- */

static void send_bytes(const struct connection *connection, const uint8_t *bytes, size_t length)
{
	while (length > 0 && connection->fd >= 0) {
		ssize_t sent = send(connection->fd, bytes, length, MSG_NOSIGNAL);

		if (sent <= 0)
			return; /* the client is gone: its thread will see that */
		bytes += sent;
		length -= (size_t)sent;
	}
}

static void shut(const struct connection *connection)
{
	if (connection->fd >= 0)
		(void)shutdown(connection->fd, SHUT_RDWR);
}

/* Field 1000, so many bytes long with its head of 5 bytes; 0: none. */
static void pad(uint8_t *out, size_t bytes)
{
	static const uint8_t head[] = {0xC2, 0x3E}; /* 1000 << 3 | 2 */
	size_t length = bytes - 5;

	if (bytes == 0)
		return;
	memset(out, 'p', bytes);
	memcpy(out, head, sizeof(head));
	out[2] = (uint8_t)(length | 0x80);
	out[3] = (uint8_t)(length >> 7 | 0x80);
	out[4] = (uint8_t)(length >> 14);
}

/* The answer, through the rule of its verb. */
static void reply(const struct request *request, const struct fake_rule *rule, kvc_status status,
                  const ProtobufCMessage *message, const uint8_t *payload, size_t payload_bytes)
{
	size_t padding = request->connection->daemon->limits.padding;
	size_t message_bytes = protobuf_c_message_get_packed_size(message);
	size_t body_bytes = message_bytes + padding;
	size_t length = KVC_FRAME_HEADER_BYTES + body_bytes + payload_bytes;
	uint8_t *bytes = malloc(length);
	struct kvc_frame frame = {
	        .verb = request->frame.verb,
	        .flags = KVC_FRAME_REPLY,
	        .body_bytes = (uint32_t)body_bytes,
	        .status = (uint32_t)status,
	        .request_id = request->frame.request_id,
	        .payload_bytes = payload_bytes,
	};

	MUST(bytes);
	kvc_frame_encode(&frame, bytes);
	protobuf_c_message_pack(message, bytes + KVC_FRAME_HEADER_BYTES);
	pad(bytes + KVC_FRAME_HEADER_BYTES + message_bytes, padding);
	if (payload_bytes > 0)
		memcpy(bytes + KVC_FRAME_HEADER_BYTES + body_bytes, payload, payload_bytes);
	if (rule->action == FAKE_CUT && rule->number < length) {
		send_bytes(request->connection, bytes, rule->number);
		shut(request->connection);
	} else {
		send_bytes(request->connection, bytes, length);
	}
	free(bytes);
}

static void fail(const struct request *request, kvc_status status, const char *detail)
{
	static const struct fake_rule honest = {.action = FAKE_ANSWER};
	Kvcellar__Failure failure;

	kvcellar__failure__init(&failure);
	failure.detail = (char *)(uintptr_t)detail;
	reply(request, &honest, status, &failure.base, NULL, 0);
}

static void reply_done(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__Ping ping = KVCELLAR__PING__INIT;

	reply(request, rule, KVC_OK, &ping.base, NULL, 0);
}

/* ---- set-up verbs -------------------------------------------------------------------------- */

static void on_hello(const struct request *request, const struct fake_rule *rule)
{
	const struct fake_limits *limits = &request->connection->daemon->limits;
	uint8_t boot_id[KVC_BOOT_ID_BYTES] = "fake boot id 16";
	Kvcellar__HelloReply hello;
	Kvcellar__Limits fields = KVCELLAR__LIMITS__INIT;

	kvcellar__hello_reply__init(&hello);
	fields.frame_bytes = KVC_FRAME_BODY_MAX;
	fields.batch = limits->batch;
	fields.inflight = limits->inflight;
	fields.inline_bytes = limits->inline_bytes;
	fields.region_bytes = 1u << 30;
	fields.deadline_ms_max = limits->deadline_ms_max;
	hello.protocol = KVC_PROTOCOL_VERSION;
	hello.boot_id.data = boot_id;
	hello.boot_id.len = sizeof(boot_id);
	hello.version = (char *)(uintptr_t) "fake";
	hello.planes = 1u << KVCELLAR__PLANE__PLANE_INLINE | 1u << KVCELLAR__PLANE__PLANE_SHM |
	               1u << KVCELLAR__PLANE__PLANE_CUDA;
	hello.limits = &fields;
	reply(request, rule, KVC_OK, &hello.base, NULL, 0);
}

static void on_open(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__Open *open = kvcellar__open__unpack(NULL, request->frame.body_bytes, request->body);
	Kvcellar__OpenReply answer = KVCELLAR__OPEN_REPLY__INIT;
	struct namespace_ *ns = calloc(1, sizeof(*ns));

	MUST(open && ns && open->id < IDS && open->codec);
	(void)snprintf(ns->identity, sizeof(ns->identity), "%s/%s/%u/%u/%u/%u/%u/%u/%u/%s", open->tenant,
	               open->model, open->layers, open->heads, open->key_dim, open->value_dim,
	               (unsigned)open->dtype, open->shard, open->shards, open->codec->preset);
	ns->layers = open->layers;
	ns->heads = open->heads;
	ns->dims[0] = open->key_dim;
	ns->dims[1] = open->value_dim;
	ns->element = open->dtype == KVCELLAR__DTYPE__DTYPE_FP32 ? 4 : 2;
	free(request->connection->namespaces[open->id]);
	request->connection->namespaces[open->id] = ns;
	answer.raw_bytes =
	        ns->layers * ns->heads * (ns->dims[0] + ns->dims[1]) * ns->element * open->block_tokens;
	answer.image_bytes = answer.raw_bytes + 256;
	kvcellar__open__free_unpacked(open, NULL);
	reply(request, rule, KVC_OK, &answer.base, NULL, 0);
}

static void region_drop(struct region *region)
{
	if (region->data)
		MUST(munmap(region->data, region->bytes) == 0);
	free(region->pool);
	*region = (struct region){NULL, 0, NULL};
}

static uint8_t *memfd_map(const Kvcellar__Attach *attach, int fd)
{
	void *data = mmap(NULL, attach->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	MUST(data != MAP_FAILED);
	return data;
}

static void on_attach(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__Attach *attach = kvcellar__attach__unpack(NULL, request->frame.body_bytes, request->body);
	struct region *region;

	MUST(attach && attach->id < IDS);
	region = &request->connection->regions[attach->id];
	if (attach->plane == KVCELLAR__PLANE__PLANE_SHM && request->fd_count != 1) {
		fail(request, KVC_INVALID, "attach without a descriptor");
	} else {
		region_drop(region);
		region->bytes = attach->bytes;
		region->data = attach->plane == KVCELLAR__PLANE__PLANE_SHM
		                       ? memfd_map(attach, request->fds[0])
		                       : fake_device_map(attach, request->fds, request->fd_count);
		reply_done(request, rule);
	}
	kvcellar__attach__free_unpacked(attach, NULL);
}

static uint8_t *pool_base(void *context, uint32_t region, uint64_t offset)
{
	const struct connection *connection = context;

	MUST(region < IDS && connection->regions[region].data && offset < connection->regions[region].bytes);
	return connection->regions[region].data + offset;
}

static bool bases_known(const struct connection *connection, const Kvcellar__Pool *pool)
{
	for (size_t i = 0; i < pool->n_key_bases; i++) {
		if (pool->key_bases[i]->region >= IDS ||
		    !connection->regions[pool->key_bases[i]->region].data)
			return false;
	}
	return true;
}

static void on_pool(const struct request *request, const struct fake_rule *rule)
{
	struct connection *connection = request->connection;
	Kvcellar__Pool *pool = kvcellar__pool__unpack(NULL, request->frame.body_bytes, request->body);

	MUST(pool && pool->id < IDS && request->fd_count == 1);
	if (!bases_known(connection, pool) || !connection->namespaces[pool->namespace_]) {
		fail(request, KVC_UNKNOWN_ID, "");
	} else {
		struct region *region = &connection->regions[pool->id];

		region_drop(region);
		region->pool = calloc(1, sizeof(*region->pool));
		MUST(region->pool);
		*region->pool = fake_pool_make(pool, request->fds[0], pool_base, connection);
		reply_done(request, rule);
	}
	kvcellar__pool__free_unpacked(pool, NULL);
}

static void on_close(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__Close *message = kvcellar__close__unpack(NULL, request->frame.body_bytes, request->body);
	struct connection *connection = request->connection;

	MUST(message && message->id < IDS);
	if (request->frame.verb == KVC_VERB_DETACH) {
		region_drop(&connection->regions[message->id]);
	} else {
		free(connection->namespaces[message->id]);
		connection->namespaces[message->id] = NULL;
	}
	kvcellar__close__free_unpacked(message, NULL);
	reply_done(request, rule);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static struct stored **find(struct fake_daemon *daemon, const struct namespace_ *ns, ProtobufCBinaryData key)
{
	struct stored **at;
	uint32_t hash = 0;

	for (size_t i = 0; i < key.len; i++)
		hash = hash * 31 + key.data[i];
	at = &daemon->blocks[hash % BUCKETS];
	while (*at && (strcmp((*at)->identity, ns->identity) != 0 || (*at)->key_bytes != key.len ||
	               memcmp((*at)->key, key.data, key.len) != 0))
		at = &(*at)->next;
	return at;
}

/* A put and a get have the same fields so far as the fake looks at them. */
struct transfer {
	bool put;
	const struct namespace_ *ns;
	const struct region *region; /* NULL: inline */
	bool images;
	const Kvcellar__Mark *mark;
	const Kvcellar__Layout *layouts[2];
	size_t count;
	Kvcellar__Block **blocks;
};

static void copy_pages(const struct transfer *transfer, const Kvcellar__Block *block, uint8_t *raw)
{
	const struct namespace_ *ns = transfer->ns;
	uint32_t heads = (uint32_t)ns->heads;

	MUST(fake_pool_has_come(transfer->region->pool, transfer->mark));
	for (unsigned kind = 0; kind < 2; kind++) {
		uint64_t row = ns->dims[kind] * ns->element;

		for (uint32_t i = 0; row && i < ns->layers * block->tokens * heads; i++, raw += row) {
			uint32_t place[3] = {i / heads / block->tokens, i / heads % block->tokens, i % heads};
			uint8_t *there = fake_pool_row(transfer->region->pool, block, kind, place);

			memcpy(transfer->put ? raw : there, transfer->put ? there : raw, row);
		}
	}
}

/* Between a region and raw bytes, both kinds, by strides. */
static void copy_view(const struct transfer *transfer, const Kvcellar__Block *block, uint8_t *raw)
{
	const struct namespace_ *ns = transfer->ns;
	uint64_t offsets[2] = {block->key_offset, block->value_offset};

	for (unsigned kind = 0; kind < 2; kind++) {
		uint64_t row = ns->dims[kind] * ns->element;
		const Kvcellar__Layout *l = transfer->layouts[kind];
		int64_t strides[3] = {(int64_t)(row * ns->heads * block->tokens), (int64_t)(row * ns->heads),
		                      (int64_t)row};

		if (l)
			memcpy(strides, (int64_t[]){l->layer_stride, l->token_stride, l->head_stride},
			       sizeof(strides));
		for (uint64_t i = 0; i < ns->layers * block->tokens * ns->heads; i++, raw += row) {
			uint64_t layer = i / ns->heads / block->tokens;
			uint64_t token = i / ns->heads % block->tokens;
			int64_t at = (int64_t)layer * strides[0] + (int64_t)token * strides[1] +
			             (int64_t)(i % ns->heads) * strides[2];
			uint8_t *there = transfer->region->data + offsets[kind] + at;

			MUST((uint64_t)(there - transfer->region->data) + row <= transfer->region->bytes);
			memcpy(transfer->put ? raw : there, transfer->put ? there : raw, row);
		}
	}
}

static void copy_block(const struct transfer *transfer, const Kvcellar__Block *block, uint8_t *raw,
                       size_t bytes)
{
	uint8_t *image = transfer->region->data ? transfer->region->data + block->key_offset : NULL;

	if (transfer->region->pool)
		copy_pages(transfer, block, raw);
	else if (transfer->images)
		memcpy(transfer->put ? raw : image, transfer->put ? image : raw, bytes);
	else
		copy_view(transfer, block, raw);
}

static uint64_t raw_bytes(const struct namespace_ *ns, uint32_t tokens)
{
	return ns->layers * ns->heads * (ns->dims[0] + ns->dims[1]) * ns->element * tokens;
}

static void put_block(const struct request *request, const struct transfer *transfer,
                      const Kvcellar__Block *block, const uint8_t *payload)
{
	struct fake_daemon *daemon = request->connection->daemon;
	size_t bytes = transfer->images ? block->image_bytes : raw_bytes(transfer->ns, block->tokens);
	struct stored **at = find(daemon, transfer->ns, block->key);
	struct stored *stored;

	if (*at)
		return;
	stored = calloc(1, sizeof(*stored) + bytes);
	MUST(stored && block->key.len <= sizeof(stored->key));
	memcpy(stored->identity, transfer->ns->identity, sizeof(stored->identity));
	stored->key_bytes = block->key.len;
	memcpy(stored->key, block->key.data, block->key.len);
	stored->tokens = block->tokens;
	stored->bytes = bytes;
	if (transfer->region)
		copy_block(transfer, block, stored->data, bytes);
	else
		memcpy(stored->data, payload, bytes);
	*at = stored;
}

static kvc_status get_block(const struct request *request, const struct transfer *transfer,
                            const Kvcellar__Block *block, uint8_t *payload)
{
	struct stored *stored = *find(request->connection->daemon, transfer->ns, block->key);

	if (!stored || stored->tokens != block->tokens)
		return KVC_MISS;
	if (transfer->images && stored->bytes > block->image_bytes)
		return KVC_LIMIT;
	if (transfer->region)
		copy_block(transfer, block, stored->data, stored->bytes);
	else
		memcpy(payload, stored->data, stored->bytes);
	return KVC_OK;
}

static void move_blocks(const struct request *request, const struct fake_rule *rule,
                        const struct transfer *transfer)
{
	Kvcellar__BlocksReply answer = KVCELLAR__BLOCKS_REPLY__INIT;
	uint32_t *statuses = calloc(transfer->count + 1, sizeof(*statuses));
	uint64_t *lengths = calloc(transfer->count + 1, sizeof(*lengths));
	uint8_t *out = malloc(request->connection->daemon->limits.inline_bytes + 1);
	size_t payload = 0;

	MUST(statuses && lengths && out);
	for (size_t i = 0; i < transfer->count; i++) {
		const Kvcellar__Block *block = transfer->blocks[i];
		uint64_t bytes = raw_bytes(transfer->ns, block->tokens);

		if (transfer->put)
			put_block(request, transfer, block,
			          request->payload ? request->payload + payload : NULL);
		else
			statuses[i] = get_block(request, transfer, block, out + payload);
		if (!transfer->region && statuses[i] == KVC_OK)
			payload += bytes;
		if (statuses[i] == KVC_OK)
			lengths[i] = (*find(request->connection->daemon, transfer->ns, block->key))->bytes;
		answer.stored_bytes += statuses[i] == KVC_OK ? bytes : 0;
		answer.tier_hits_ram += statuses[i] == KVC_OK;
	}
	answer.n_statuses = transfer->count;
	answer.statuses = statuses;
	answer.n_image_bytes = transfer->images && !transfer->put ? transfer->count : 0;
	answer.image_bytes = lengths;
	reply(request, rule, KVC_OK, &answer.base, out, transfer->put ? 0 : payload);
	free(out);
	free(lengths);
	free(statuses);
}

static bool resolve(const struct request *request, uint32_t ns, uint32_t region, struct transfer *transfer)
{
	struct connection *connection = request->connection;

	transfer->ns = ns < IDS ? connection->namespaces[ns] : NULL;
	transfer->region = region && region < IDS ? &connection->regions[region] : NULL;
	if (transfer->ns &&
	    (!region || (transfer->region && (transfer->region->data || transfer->region->pool))))
		return true;
	fail(request, KVC_UNKNOWN_ID, "");
	return false;
}

static void on_put(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__Put *put = kvcellar__put__unpack(NULL, request->frame.body_bytes, request->body);
	struct transfer transfer = {.put = true};

	MUST(put);
	transfer.mark = put->mark;
	transfer.layouts[0] = put->key_layout;
	transfer.layouts[1] = put->value_layout;
	transfer.count = put->n_blocks;
	transfer.blocks = put->blocks;
	transfer.images = put->form == KVCELLAR__FORM__FORM_IMAGE;
	if (resolve(request, put->namespace_, put->region, &transfer))
		move_blocks(request, rule, &transfer);
	kvcellar__put__free_unpacked(put, NULL);
}

static void on_get(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__Get *get = kvcellar__get__unpack(NULL, request->frame.body_bytes, request->body);
	struct transfer transfer = {.put = false};

	MUST(get);
	transfer.mark = get->mark;
	transfer.layouts[0] = get->key_layout;
	transfer.layouts[1] = get->value_layout;
	transfer.count = get->n_blocks;
	transfer.blocks = get->blocks;
	transfer.images = get->form == KVCELLAR__FORM__FORM_IMAGE;
	if (resolve(request, get->namespace_, get->region, &transfer))
		move_blocks(request, rule, &transfer);
	kvcellar__get__free_unpacked(get, NULL);
}

static void on_keys(const struct request *request, const struct fake_rule *rule)
{
	struct fake_daemon *daemon = request->connection->daemon;
	Kvcellar__Keys *keys = kvcellar__keys__unpack(NULL, request->frame.body_bytes, request->body);
	Kvcellar__KeysReply answer;
	struct transfer transfer;
	uint8_t *tiers;
	size_t leading = 0;
	size_t there = 0;

	MUST(keys);
	tiers = calloc(keys->n_keys + 1, 1);
	MUST(tiers);
	kvcellar__keys_reply__init(&answer);
	if (!resolve(request, keys->namespace_, 0, &transfer))
		goto out;
	for (size_t i = 0; i < keys->n_keys; i++) {
		struct stored **at = find(daemon, transfer.ns, keys->keys[i]);
		struct stored *stored = *at;

		if (!stored)
			continue;
		tiers[i] = KVC_TIER_RAM;
		leading += leading == i;
		there++;
		if (request->frame.verb == KVC_VERB_DROP) {
			*at = stored->next;
			free(stored);
		}
	}
	answer.prefix = (uint32_t)(request->frame.verb == KVC_VERB_LOOKUP ? leading : there);
	answer.tiers.data = tiers;
	answer.tiers.len = request->frame.verb == KVC_VERB_LOOKUP ? keys->n_keys : 0;
	reply(request, rule, KVC_OK, &answer.base, NULL, 0);
out:
	free(tiers);
	kvcellar__keys__free_unpacked(keys, NULL);
}

static void on_stats(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__StatsReply answer;
	Kvcellar__Stat stat;
	Kvcellar__Stat *stats[] = {&stat};

	kvcellar__stats_reply__init(&answer);
	kvcellar__stat__init(&stat);
	stat.name = (char *)(uintptr_t) "ram.used_bytes";
	stat.value = 42;
	answer.n_stats = 1;
	answer.stats = stats;
	reply(request, rule, KVC_OK, &answer.base, NULL, 0);
}

static void on_drop_tenant(const struct request *request, const struct fake_rule *rule)
{
	Kvcellar__DropTenantReply answer;

	kvcellar__drop_tenant_reply__init(&answer);
	answer.blocks = 7;
	reply(request, rule, KVC_OK, &answer.base, NULL, 0);
}

typedef void (*handler)(const struct request *request, const struct fake_rule *rule);

static const handler handlers[KVC_VERB_COUNT] = {
        [KVC_VERB_HELLO] = on_hello,  [KVC_VERB_PING] = reply_done,
        [KVC_VERB_OPEN] = on_open,    [KVC_VERB_CLOSE] = on_close,
        [KVC_VERB_PUT] = on_put,      [KVC_VERB_ATTACH] = on_attach,
        [KVC_VERB_DETACH] = on_close, [KVC_VERB_GET] = on_get,
        [KVC_VERB_LOOKUP] = on_keys,  [KVC_VERB_PREFETCH] = on_keys,
        [KVC_VERB_PIN] = on_keys,     [KVC_VERB_UNPIN] = on_keys,
        [KVC_VERB_DROP] = on_keys,    [KVC_VERB_STATS] = on_stats,
        [KVC_VERB_POOL] = on_pool,    [KVC_VERB_DROP_TENANT] = on_drop_tenant,
};

/* ---- requests ------------------------------------------------------------------------------ */

static void request_free(struct request *request)
{
	for (unsigned i = 0; i < request->fd_count; i++)
		(void)close(request->fds[i]);
	free(request->body);
	free(request->payload);
	free(request);
}

static void send_raw(const struct request *request, const struct fake_rule *rule)
{
	uint8_t *bytes = malloc(rule->length + 1);
	static const uint8_t zero[8];

	MUST(bytes);
	memcpy(bytes, rule->bytes, rule->length);
	if (rule->length >= 24 && memcmp(bytes + 16, zero, 8) == 0)
		memcpy(bytes + 16, &request->frame.request_id, 8);
	send_bytes(request->connection, bytes, rule->length);
	free(bytes);
}

/* Which rule counts for this frame; uses it up. */
static struct fake_rule rule_for(struct fake_daemon *daemon, uint16_t verb)
{
	struct fake_rule *rule = &daemon->rules[verb];
	struct fake_rule used = *rule;

	if (rule->skip > 0) {
		rule->skip--;
		return (struct fake_rule){.action = FAKE_ANSWER};
	}
	if (rule->times > 0 && --rule->times == 0)
		rule->action = FAKE_ANSWER;
	return used;
}

/* Takes the request. */
static void handle(struct fake_daemon *daemon, struct request *request)
{
	struct fake_rule rule = rule_for(daemon, request->frame.verb);
	struct request **end = &daemon->held;

	daemon->seen[request->frame.verb]++;
	(void)pthread_cond_broadcast(&daemon->changed);
	switch (rule.action) {
	case FAKE_FREEZE:
		daemon->frozen = true;
		/* fall through */
	case FAKE_HOLD:
		while (*end)
			end = &(*end)->next;
		*end = request;
		return;
	case FAKE_CLOSE:
		shut(request->connection);
		break;
	case FAKE_FAIL:
		fail(request, (kvc_status)rule.number, "as the test wants it");
		break;
	case FAKE_RAW:
		send_raw(request, &rule);
		break;
	case FAKE_ANSWER:
	case FAKE_CUT:
		handlers[request->frame.verb](request, &rule);
		break;
	}
	request_free(request);
}

/* All descriptors of a frame come together, with its first bytes. */
static void take_descriptors(struct request *request, const struct cmsghdr *control)
{
	if (!control)
		return;
	MUST(request->fd_count == 0);
	request->fd_count = (unsigned)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(request->fds, CMSG_DATA(control), request->fd_count * sizeof(int));
}

static bool read_bytes(int fd, void *bytes, size_t length, struct request *request)
{
	uint8_t *at = bytes;

	while (length > 0) {
		union {
			char bytes[CMSG_SPACE(sizeof(int) * FDS)];
			struct cmsghdr align;
		} control;
		struct iovec part = {at, length};
		struct msghdr message = {.msg_iov = &part,
		                         .msg_iovlen = 1,
		                         .msg_control = control.bytes,
		                         .msg_controllen = sizeof(control)};
		ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

		if (got <= 0)
			return false;
		take_descriptors(request, CMSG_FIRSTHDR(&message));
		at += got;
		length -= (size_t)got;
	}
	return true;
}

static struct request *read_request(struct connection *connection, int fd)
{
	struct request *request = calloc(1, sizeof(*request));
	uint8_t header[KVC_FRAME_HEADER_BYTES];

	MUST(request);
	request->connection = connection;
	if (!read_bytes(fd, header, sizeof(header), request))
		goto gone;
	MUST(kvc_frame_decode(header, &request->frame, NULL) == KVC_OK);
	MUST(!(request->frame.flags & KVC_FRAME_REPLY) && request->frame.payload_bytes < 1u << 30);
	request->body = malloc(request->frame.body_bytes + 1);
	request->payload = malloc(request->frame.payload_bytes + 1);
	MUST(request->body && request->payload);
	if (read_bytes(fd, request->body, request->frame.body_bytes, request) &&
	    read_bytes(fd, request->payload, request->frame.payload_bytes, request)) {
		MUST((request->fd_count > 0) == ((request->frame.flags & KVC_FRAME_FD) != 0));
		return request;
	}
gone:
	request_free(request);
	return NULL;
}

/* ---- connections --------------------------------------------------------------------------- */

static void forget_held(struct fake_daemon *daemon, const struct connection *connection)
{
	struct request **at = &daemon->held;

	while (*at) {
		struct request *request = *at;

		if (request->connection != connection) {
			at = &request->next;
			continue;
		}
		*at = request->next;
		request_free(request);
	}
}

static void connection_end(struct connection *connection)
{
	forget_held(connection->daemon, connection);
	for (unsigned i = 0; i < IDS; i++) {
		free(connection->namespaces[i]);
		connection->namespaces[i] = NULL;
		region_drop(&connection->regions[i]);
	}
	(void)close(connection->fd);
	connection->fd = -1;
}

static void *serve(void *data)
{
	struct connection *connection = data;
	struct fake_daemon *daemon = connection->daemon;
	struct request *request;
	int fd = connection->fd;

	while ((request = read_request(connection, fd))) {
		MUST(pthread_mutex_lock(&daemon->lock) == 0);
		handle(daemon, request);
		while (daemon->frozen)
			(void)pthread_cond_wait(&daemon->changed, &daemon->lock);
		MUST(pthread_mutex_unlock(&daemon->lock) == 0);
	}
	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	while (daemon->linger)
		(void)pthread_cond_wait(&daemon->changed, &daemon->lock);
	connection_end(connection);
	(void)pthread_cond_broadcast(&daemon->changed);
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
	return NULL;
}

static void accept_one(struct fake_daemon *daemon)
{
	int fd = accept4(daemon->listener, NULL, NULL, SOCK_CLOEXEC);
	struct connection *connection = NULL;

	if (fd < 0)
		return; /* the client was gone before it was accepted */
	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	for (unsigned i = 0; i < CONNECTIONS && !connection; i++) {
		if (daemon->connections[i].used && daemon->connections[i].fd >= 0)
			continue;
		connection = &daemon->connections[i];
		if (connection->used)
			MUST(pthread_join(connection->thread, NULL) == 0);
	}
	MUST(connection);
	connection->daemon = daemon;
	connection->fd = fd;
	connection->used = true;
	MUST(pthread_create(&connection->thread, NULL, serve, connection) == 0);
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
}

static void *accept_all(void *data)
{
	struct fake_daemon *daemon = data;
	struct pollfd polled[2] = {{.fd = daemon->listener, .events = POLLIN},
	                           {.fd = daemon->stop[0], .events = POLLIN}};

	while (poll(polled, 2, -1) >= 0 || errno == EINTR) {
		if (polled[1].revents)
			break;
		if (polled[0].revents)
			accept_one(daemon);
	}
	return NULL;
}

/* ---- control ------------------------------------------------------------------------------- */

struct fake_daemon *fake_daemon_start(const char *path, const struct fake_limits *limits)
{
	struct fake_daemon *daemon = calloc(1, sizeof(*daemon));
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	MUST(daemon && strlen(path) < sizeof(daemon->path));
	daemon->limits = limits ? *limits : (struct fake_limits){1024, 256, 16u << 20, 0, 0};
	(void)snprintf(daemon->path, sizeof(daemon->path), "%s", path);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	MUST(pthread_mutex_init(&daemon->lock, NULL) == 0 && pthread_cond_init(&daemon->changed, NULL) == 0);
	daemon->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST(daemon->listener >= 0 && pipe(daemon->stop) == 0);
	MUST(bind(daemon->listener, (const struct sockaddr *)&address, sizeof(address)) == 0);
	MUST(listen(daemon->listener, 64) == 0);
	MUST(pthread_create(&daemon->thread, NULL, accept_all, daemon) == 0);
	return daemon;
}

void fake_daemon_disconnect(struct fake_daemon *daemon)
{
	fake_daemon_release(daemon);
	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &daemon->connections[i];

		if (!connection->used)
			continue;
		shut(connection);
		while (connection->fd >= 0)
			(void)pthread_cond_wait(&daemon->changed, &daemon->lock);
	}
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
}

void fake_daemon_stop(struct fake_daemon *daemon)
{
	(void)unlink(daemon->path);
	MUST(write(daemon->stop[1], "", 1) == 1);
	MUST(pthread_join(daemon->thread, NULL) == 0);
	(void)close(daemon->listener);
	fake_daemon_disconnect(daemon);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		if (daemon->connections[i].used)
			MUST(pthread_join(daemon->connections[i].thread, NULL) == 0);
	}
	for (unsigned i = 0; i < BUCKETS; i++) {
		while (daemon->blocks[i]) {
			struct stored *stored = daemon->blocks[i];

			daemon->blocks[i] = stored->next;
			free(stored);
		}
	}
	(void)close(daemon->stop[0]);
	(void)close(daemon->stop[1]);
	(void)pthread_cond_destroy(&daemon->changed);
	(void)pthread_mutex_destroy(&daemon->lock);
	free(daemon);
}

void fake_daemon_rule(struct fake_daemon *daemon, uint16_t verb, struct fake_rule rule)
{
	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	daemon->rules[verb] = rule;
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
}

void fake_daemon_linger(struct fake_daemon *daemon)
{
	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	daemon->linger = true;
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
}

void fake_daemon_release(struct fake_daemon *daemon)
{
	static const struct fake_rule honest = {.action = FAKE_ANSWER};

	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	while (daemon->held) {
		struct request *request = daemon->held;

		daemon->held = request->next;
		handlers[request->frame.verb](request, &honest);
		request_free(request);
	}
	daemon->frozen = false;
	daemon->linger = false;
	(void)pthread_cond_broadcast(&daemon->changed);
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
}

void fake_daemon_await(struct fake_daemon *daemon, uint16_t verb, unsigned frames)
{
	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	while (daemon->seen[verb] < frames)
		(void)pthread_cond_wait(&daemon->changed, &daemon->lock);
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
}

unsigned fake_daemon_seen(struct fake_daemon *daemon, uint16_t verb)
{
	unsigned seen;

	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	seen = daemon->seen[verb];
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
	return seen;
}

unsigned fake_daemon_connections(struct fake_daemon *daemon)
{
	unsigned open = 0;

	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	for (unsigned i = 0; i < CONNECTIONS; i++)
		open += daemon->connections[i].used && daemon->connections[i].fd >= 0;
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
	return open;
}

size_t fake_daemon_blocks(struct fake_daemon *daemon)
{
	size_t blocks = 0;

	MUST(pthread_mutex_lock(&daemon->lock) == 0);
	for (unsigned i = 0; i < BUCKETS; i++) {
		for (const struct stored *at = daemon->blocks[i]; at; at = at->next)
			blocks++;
	}
	MUST(pthread_mutex_unlock(&daemon->lock) == 0);
	return blocks;
}
