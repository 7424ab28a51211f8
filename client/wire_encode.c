/* Requests to protobuf. The generated structs of a request are built on the stack, those of its blocks on
 * the stack up to SMALL_BATCH, so that a request of few blocks costs no heap call. */
#include <string.h>

#include "client/alloc.h"
#include "client/wire_private.h"

#define SMALL_BATCH 16u

kvc_status kvcc_buffer_reserve(struct kvcc_buffer *buffer, size_t bytes)
{
	uint8_t *larger;

	if (bytes <= buffer->capacity)
		return KVC_OK;
	larger = kvcc_alloc(1, bytes);
	if (!larger)
		return KVC_NO_MEMORY;
	if (buffer->length > 0)
		memcpy(larger, buffer->bytes, buffer->length);
	kvcc_free(buffer->bytes);
	buffer->bytes = larger;
	buffer->capacity = bytes;
	return KVC_OK;
}

kvc_status kvcc_buffer_copy(struct kvcc_buffer *to, const struct kvcc_buffer *from)
{
	kvc_status status = kvcc_buffer_reserve(to, from->length);

	if (status != KVC_OK)
		return status;
	memcpy(to->bytes, from->bytes, from->length);
	to->length = from->length;
	return KVC_OK;
}

kvc_status kvcc_wire_pack(const ProtobufCMessage *message, struct kvcc_buffer *out)
{
	size_t bytes = protobuf_c_message_get_packed_size(message);
	kvc_status status;

	if (bytes > KVC_FRAME_BODY_MAX)
		return KVC_LIMIT;
	status = kvcc_buffer_reserve(out, KVC_FRAME_HEADER_BYTES + bytes);
	if (status != KVC_OK)
		return status;
	protobuf_c_message_pack(message, out->bytes + KVC_FRAME_HEADER_BYTES);
	out->length = KVC_FRAME_HEADER_BYTES + bytes;
	return KVC_OK;
}

/* The generated structs have no const; nothing is written through these pointers. */
static char *text_field(const char *text)
{
	return (char *)(uintptr_t)text;
}

static ProtobufCBinaryData bytes_field(const void *data, size_t bytes)
{
	return (ProtobufCBinaryData){.len = bytes, .data = (uint8_t *)(uintptr_t)data};
}

kvc_status kvcc_wire_hello(const char *name, struct kvcc_buffer *out)
{
	Kvcellar__Hello hello;

	kvcellar__hello__init(&hello);
	hello.protocol_min = KVC_PROTOCOL_VERSION;
	hello.protocol_max = KVC_PROTOCOL_VERSION;
	hello.client = text_field(name);
	return kvcc_wire_pack(&hello.base, out);
}

kvc_status kvcc_wire_attach(uint32_t region, uint64_t bytes, struct kvcc_buffer *out)
{
	Kvcellar__Attach attach = KVCELLAR__ATTACH__INIT;

	attach.id = region;
	attach.plane = KVCELLAR__PLANE__PLANE_SHM;
	attach.bytes = bytes;
	return kvcc_wire_pack(&attach.base, out);
}

kvc_status kvcc_wire_close(uint32_t id, struct kvcc_buffer *out)
{
	Kvcellar__Close message = KVCELLAR__CLOSE__INIT;

	message.id = id;
	return kvcc_wire_pack(&message.base, out);
}

kvc_status kvcc_wire_empty(struct kvcc_buffer *out)
{
	Kvcellar__Ping ping = KVCELLAR__PING__INIT;

	return kvcc_wire_pack(&ping.base, out);
}

kvc_status kvcc_wire_tenant(uint16_t verb, const char *tenant, struct kvcc_buffer *out)
{
	Kvcellar__StatsRequest stats;
	Kvcellar__DropTenant drop;

	kvcellar__stats_request__init(&stats);
	kvcellar__drop_tenant__init(&drop);
	stats.tenant = drop.tenant = (char *)(uintptr_t)tenant; /* protobuf-c only reads it */
	return kvcc_wire_pack(verb == KVC_VERB_STATS ? &stats.base : &drop.base, out);
}

/* ---- open ---------------------------------------------------------------------------------- */

struct coding_fields {
	Kvcellar__CodecParams key;
	Kvcellar__CodecParams value;
};

static Kvcellar__CodecParams coding_field(const struct kvc_coding *coding)
{
	Kvcellar__CodecParams params = KVCELLAR__CODEC_PARAMS__INIT;

	params.bits = coding->bits;
	params.group = coding->group;
	params.centre = coding->centre != 0;
	params.rotate = coding->rotate != 0;
	params.gain = coding->gain != 0;
	params.clip = coding->clip;
	return params;
}

static void open_fields(uint32_t id, const struct kvc_namespace_options *options, Kvcellar__Open *open)
{
	open->id = id;
	open->tenant = text_field(options->tenant);
	open->model = text_field(options->model);
	open->layers = options->layers;
	open->heads = options->heads;
	open->key_dim = options->key_dim;
	open->value_dim = options->value_dim;
	open->dtype = (Kvcellar__DType)options->element;
	open->block_tokens = options->block_tokens;
	open->shard = options->shard;
	open->shards = options->shards;
}

kvc_status kvcc_wire_open(uint32_t id, const struct kvc_namespace_options *options, struct kvcc_buffer *out)
{
	Kvcellar__Open open;
	Kvcellar__Codec codec;
	struct coding_fields whole;
	struct coding_fields parts[SMALL_BATCH];
	Kvcellar__LayerCodec layers[SMALL_BATCH];
	Kvcellar__LayerCodec *pointers[SMALL_BATCH];

	if (options->layer_coding_count > SMALL_BATCH)
		return KVC_LIMIT;
	kvcellar__open__init(&open);
	kvcellar__codec__init(&codec);
	for (size_t i = 0; i < options->layer_coding_count; i++) {
		const struct kvc_layer_coding *layer = &options->layer_codings[i];

		parts[i] = (struct coding_fields){coding_field(&layer->key), coding_field(&layer->value)};
		layers[i] = (Kvcellar__LayerCodec)KVCELLAR__LAYER_CODEC__INIT;
		layers[i].layer = layer->layer;
		layers[i].key = &parts[i].key;
		layers[i].value = &parts[i].value;
		pointers[i] = &layers[i];
	}
	codec.n_layers = options->layer_coding_count;
	codec.layers = pointers;
	if (options->preset) {
		codec.preset = text_field(options->preset);
	} else {
		whole = (struct coding_fields){coding_field(&options->key_coding),
		                               coding_field(&options->value_coding)};
		codec.key = &whole.key;
		codec.value = &whole.value;
	}
	open_fields(id, options, &open);
	open.codec = &codec;
	return kvcc_wire_pack(&open.base, out);
}

/* ---- put and get --------------------------------------------------------------------------- */

static size_t varint_bytes(uint64_t value)
{
	size_t bytes = 1;

	while (value >>= 7)
		bytes++;
	return bytes;
}

/* A field whose default is not sent: tag of one byte, then the value. */
static size_t number_bytes(uint64_t value)
{
	return value ? 1 + varint_bytes(value) : 0;
}

static size_t string_bytes(size_t length)
{
	return length ? 1 + varint_bytes(length) + length : 0;
}

static size_t pages_bytes(const struct kvc_block *block)
{
	size_t bytes = 0;

	for (size_t i = 0; i < block->page_count; i++)
		bytes += varint_bytes(block->pages[i]);
	return string_bytes(bytes) + number_bytes(block->first_token);
}

/* Where the block is: fields that follow from the plane and the form. */
static size_t place_bytes(const struct kvcc_wire_blocks *request, const struct kvc_block *block)
{
	const struct kvc_transfer *transfer = request->transfer;

	if (!request->region)
		return 0;
	if (transfer->pool)
		return pages_bytes(block);
	if (transfer->form == KVC_FORM_IMAGE)
		return number_bytes(block->key_offset) + number_bytes(block->image_bytes);
	return number_bytes(block->key_offset) + number_bytes(block->value_offset);
}

static size_t block_bytes(const struct kvcc_wire_blocks *request, const struct kvc_block *block)
{
	size_t bytes = string_bytes(block->key_bytes) + number_bytes(block->tokens);

	if (request->verb == KVC_VERB_PUT && block->parent)
		bytes += string_bytes(block->parent_bytes);
	bytes += place_bytes(request, block);
	return 1 + varint_bytes(bytes) + bytes;
}

size_t kvcc_wire_blocks_fit(const struct kvcc_wire_blocks *request)
{
	/* Fixed fields at their longest: 6 numbers of up to 5 bytes, the time, 2 layouts of 3 numbers, the
	 * hints. */
	size_t bytes = 6 * 6 + 11 + 2 * (2 + 3 * 11) + 2 + 6 + 2 * 2;
	size_t fit = 0;

	while (fit < request->count) {
		bytes += block_bytes(request, &request->blocks[fit]);
		if (bytes > KVC_FRAME_BODY_MAX)
			break;
		fit++;
	}
	return fit;
}

static void place_fields(const struct kvcc_wire_blocks *request, const struct kvc_block *block,
                         Kvcellar__Block *fields)
{
	const struct kvc_transfer *transfer = request->transfer;

	if (transfer->pool) {
		fields->first_token = block->first_token;
		fields->n_pages = block->page_count;
		fields->pages = (uint32_t *)(uintptr_t)block->pages;
		return;
	}
	fields->key_offset = block->key_offset;
	if (transfer->form == KVC_FORM_IMAGE)
		fields->image_bytes = block->image_bytes;
	else
		fields->value_offset = block->value_offset;
}

static Kvcellar__Block block_fields(const struct kvcc_wire_blocks *request, const struct kvc_block *block)
{
	Kvcellar__Block fields = KVCELLAR__BLOCK__INIT;

	fields.key = bytes_field(block->key, block->key_bytes);
	if (request->verb == KVC_VERB_PUT && block->parent)
		fields.parent = bytes_field(block->parent, block->parent_bytes);
	fields.tokens = block->tokens;
	if (request->region)
		place_fields(request, block, &fields);
	return fields;
}

static Kvcellar__Layout *layout_fields(const struct kvc_layout *layout, Kvcellar__Layout *fields)
{
	*fields = (Kvcellar__Layout)KVCELLAR__LAYOUT__INIT;
	if (!layout->layer_stride && !layout->token_stride && !layout->head_stride)
		return NULL;
	fields->layer_stride = layout->layer_stride;
	fields->token_stride = layout->token_stride;
	fields->head_stride = layout->head_stride;
	return fields;
}

/* None if they say nothing. */
static Kvcellar__Hints *hints_fields(const struct kvc_transfer *transfer, Kvcellar__Hints *fields)
{
	*fields = (Kvcellar__Hints)KVCELLAR__HINTS__INIT;
	if (!transfer->ttl_ms && !transfer->ephemeral && transfer->priority == KVC_PUT_NORMAL)
		return NULL;
	fields->ttl_ms = transfer->ttl_ms;
	fields->priority = (Kvcellar__Priority)transfer->priority;
	fields->ephemeral = transfer->ephemeral != 0;
	return fields;
}

struct blocks_fields {
	Kvcellar__Block *blocks;
	Kvcellar__Block **pointers;
	Kvcellar__Hints hints;
	Kvcellar__Mark mark;
	Kvcellar__Layout key_layout;
	Kvcellar__Layout value_layout;
};

static Kvcellar__Plane plane_of(const struct kvcc_wire_blocks *request)
{
	if (!request->region)
		return KVCELLAR__PLANE__PLANE_INLINE;
	return request->transfer->pool ? KVCELLAR__PLANE__PLANE_CUDA : KVCELLAR__PLANE__PLANE_SHM;
}

/* Only elements in shared memory have layouts. */
static bool has_layouts(const struct kvcc_wire_blocks *request)
{
	return request->region && !request->transfer->pool && request->transfer->form == KVC_FORM_BLOCK;
}

static Kvcellar__Mark *mark_fields(const struct kvcc_wire_blocks *request, Kvcellar__Mark *mark)
{
	if (!request->transfer->pool)
		return NULL;
	*mark = (Kvcellar__Mark)KVCELLAR__MARK__INIT;
	mark->word = request->mark.word;
	mark->value = request->mark.value;
	return mark;
}

static kvc_status put_pack(const struct kvcc_wire_blocks *request, struct blocks_fields *fields,
                           struct kvcc_buffer *out)
{
	Kvcellar__Put put = KVCELLAR__PUT__INIT;

	put.namespace_ = request->ns;
	put.deadline_ms = request->deadline_ms;
	put.expires_ns = request->expires_ns;
	put.plane = plane_of(request);
	put.form = (Kvcellar__Form)(request->region ? request->transfer->form : KVC_FORM_BLOCK);
	put.region = request->region;
	put.mark = mark_fields(request, &fields->mark);
	put.ack = (Kvcellar__Ack)request->transfer->ack;
	put.hints = hints_fields(request->transfer, &fields->hints);
	if (has_layouts(request)) {
		put.key_layout = layout_fields(&request->transfer->key_layout, &fields->key_layout);
		put.value_layout = layout_fields(&request->transfer->value_layout, &fields->value_layout);
	}
	put.n_blocks = request->count;
	put.blocks = fields->pointers;
	return kvcc_wire_pack(&put.base, out);
}

static kvc_status get_pack(const struct kvcc_wire_blocks *request, struct blocks_fields *fields,
                           struct kvcc_buffer *out)
{
	Kvcellar__Get get = KVCELLAR__GET__INIT;

	get.namespace_ = request->ns;
	get.deadline_ms = request->deadline_ms;
	get.expires_ns = request->expires_ns;
	get.plane = plane_of(request);
	get.form = (Kvcellar__Form)(request->region ? request->transfer->form : KVC_FORM_BLOCK);
	get.region = request->region;
	get.mark = mark_fields(request, &fields->mark);
	if (has_layouts(request)) {
		get.key_layout = layout_fields(&request->transfer->key_layout, &fields->key_layout);
		get.value_layout = layout_fields(&request->transfer->value_layout, &fields->value_layout);
	}
	get.n_blocks = request->count;
	get.blocks = fields->pointers;
	return kvcc_wire_pack(&get.base, out);
}

kvc_status kvcc_wire_blocks(const struct kvcc_wire_blocks *request, struct kvcc_buffer *out)
{
	Kvcellar__Block few[SMALL_BATCH];
	Kvcellar__Block *few_pointers[SMALL_BATCH];
	struct blocks_fields fields = {.blocks = few, .pointers = few_pointers};
	void *many = NULL;
	kvc_status status;

	if (request->count > SMALL_BATCH) {
		many = kvcc_alloc(request->count, sizeof(*fields.blocks) + sizeof(*fields.pointers));
		if (!many)
			return KVC_NO_MEMORY;
		fields.blocks = many;
		fields.pointers = (Kvcellar__Block **)(void *)(fields.blocks + request->count);
	}
	for (size_t i = 0; i < request->count; i++) {
		fields.blocks[i] = block_fields(request, &request->blocks[i]);
		fields.pointers[i] = &fields.blocks[i];
	}
	status = request->verb == KVC_VERB_PUT ? put_pack(request, &fields, out)
	                                       : get_pack(request, &fields, out);
	kvcc_free(many);
	return status;
}

/* ---- keys ---------------------------------------------------------------------------------- */

size_t kvcc_wire_keys_fit(const struct kvc_key *keys, size_t count)
{
	size_t bytes = 2 * 6 + 2; /* two numbers and a flag */
	size_t fit = 0;

	while (fit < count) {
		bytes += 1 + varint_bytes(keys[fit].bytes) + keys[fit].bytes;
		if (bytes > KVC_FRAME_BODY_MAX)
			break;
		fit++;
	}
	return fit;
}

kvc_status kvcc_wire_keys(const struct kvcc_wire_keys *request, struct kvcc_buffer *out)
{
	Kvcellar__Keys message = KVCELLAR__KEYS__INIT;
	ProtobufCBinaryData few[SMALL_BATCH];
	ProtobufCBinaryData *many = NULL;
	kvc_status status;

	if (request->count > SMALL_BATCH) {
		many = kvcc_alloc(request->count, sizeof(*many));
		if (!many)
			return KVC_NO_MEMORY;
	}
	message.namespace_ = request->ns;
	message.deadline_ms = request->deadline_ms;
	message.prefetch = request->prefetch;
	message.n_keys = request->count;
	message.keys = many ? many : few;
	for (size_t i = 0; i < request->count; i++)
		message.keys[i] = bytes_field(request->keys[i].data, request->keys[i].bytes);
	status = kvcc_wire_pack(&message.base, out);
	kvcc_free(many);
	return status;
}

/* ---- a put's keys -------------------------------------------------------------------------- */

enum { WIRE_VARINT = 0, WIRE_LENGTH = 2 };

/* Reads own, well-formed protobuf: every length was written by kvcc_wire_pack(). */
struct walker {
	const uint8_t *at;
	const uint8_t *end;
};

static uint64_t walk_varint(struct walker *walker)
{
	uint64_t value = 0;

	for (unsigned shift = 0; walker->at < walker->end && shift < 64; shift += 7) {
		uint8_t byte = *walker->at++;

		value |= (uint64_t)(byte & 0x7F) << shift;
		if (!(byte & 0x80))
			break;
	}
	return value;
}

/* The next field: its tag, and its contents if it has a length (else the number is skipped). */
static uint64_t walk_field(struct walker *walker, struct walker *contents)
{
	uint64_t tag = walk_varint(walker);
	uint64_t value = walk_varint(walker);

	if ((tag & 7) == WIRE_LENGTH) {
		*contents = (struct walker){walker->at, walker->at + value};
		walker->at += value;
	}
	return tag;
}

/* The frame is rewritten from its start while it is read: what is written (namespace, keys) was read before
 * and is never longer, so writing never overtakes reading. */
size_t kvcc_wire_put_to_drop(struct kvcc_buffer *frame, const uint32_t *statuses, size_t count)
{
	enum { PUT_NAMESPACE = 1 << 3 | WIRE_VARINT, PUT_BLOCKS = 8 << 3 | WIRE_LENGTH };
	enum { BLOCK_KEY = 1 << 3 | WIRE_LENGTH, KEYS_KEYS = 3 << 3 | WIRE_LENGTH };
	uint8_t *body = frame->bytes + KVC_FRAME_HEADER_BYTES;
	struct walker put = {body, frame->bytes + frame->length};
	struct walker block = {NULL, NULL};
	struct walker key = {NULL, NULL};
	size_t kept = 0;

	for (size_t i = 0; put.at < put.end;) {
		const uint8_t *field = put.at;
		uint64_t tag = walk_field(&put, &block);

		if (tag == PUT_NAMESPACE) {
			memmove(body, field, (size_t)(put.at - field));
			body += put.at - field;
		}
		if (tag != PUT_BLOCKS || i >= count)
			continue;
		i++;
		if (statuses && statuses[i - 1] != KVC_OK)
			continue;
		if (walk_field(&block, &key) != BLOCK_KEY)
			continue;
		*body++ = KEYS_KEYS;
		*body++ = (uint8_t)(key.end - key.at); /* at most KVC_KEY_BYTES_MAX: one byte of varint */
		memmove(body, key.at, (size_t)(key.end - key.at));
		body += key.end - key.at;
		kept++;
	}
	frame->length = (size_t)(body - frame->bytes);
	return kept;
}
