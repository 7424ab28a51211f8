/* Messages to core (fault rows D9 to D12, H7): each field, each bound, each with the text that names it;
 * layouts; the bound on memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/rpc/convert.h"
#include "proto/kvcellar.pb-c.h"
#include "tests/support/row.h"

static struct kvc_convert *convert;
static struct kvc_problem problem;
static uint8_t body_bytes[KVC_FRAME_BODY_MAX];

static const struct kvc_rpc_limits limits = {
        .batch = 100, .deadline_ms_default = 1000, .deadline_ms_max = 60000};

static int setup(void **state)
{
	(void)state;
	return kvc_convert_open(&convert) != KVC_OK;
}

static int teardown(void **state)
{
	(void)state;
	kvc_convert_close(convert);
	kvc_row_end();
	return 0;
}

static struct kvc_body pack(const ProtobufCMessage *message)
{
	assert_true(protobuf_c_message_get_packed_size(message) <= sizeof body_bytes);
	return (struct kvc_body){body_bytes, protobuf_c_message_pack(message, body_bytes)};
}

static void assert_refused(kvc_status status, kvc_status expected, const char *field)
{
	if (status != expected || !strstr(problem.detail, field))
		print_error("%s: status %d, '%s'\n", field, status, problem.detail);
	assert_int_equal(status, expected);
	assert_non_null(strstr(problem.detail, field));
	kvc_row.injected++;
}

/* ---- open ---------------------------------------------------------------------------------- */

struct open_parts {
	Kvcellar__Open open;
	Kvcellar__Codec codec;
	Kvcellar__CodecParams key;
	Kvcellar__CodecParams value;
	Kvcellar__LayerCodec layers[20];
	Kvcellar__LayerCodec *layer_pointers[20];
	char tenant[512];
	char model[512];
	char preset[64];
};

static struct open_parts parts;

static void open_reset(void)
{
	kvcellar__open__init(&parts.open);
	kvcellar__codec__init(&parts.codec);
	kvcellar__codec_params__init(&parts.key);
	kvcellar__codec_params__init(&parts.value);
	parts.key.bits = 4;
	parts.value.bits = 2;
	parts.key.group = parts.value.group = 32;
	strcpy(parts.tenant, "tenant-1");
	strcpy(parts.model, "meta/llama-3.1-8b@rev");
	strcpy(parts.preset, "quality");
	parts.open.id = 1;
	parts.open.tenant = parts.tenant;
	parts.open.model = parts.model;
	parts.open.layers = 32;
	parts.open.heads = 8;
	parts.open.key_dim = parts.open.value_dim = 128;
	parts.open.dtype = KVCELLAR__DTYPE__DTYPE_BF16;
	parts.open.block_tokens = 128;
	parts.open.shards = 1;
	parts.open.codec = &parts.codec;
	parts.codec.preset = parts.preset;
	for (size_t i = 0; i < 20; i++) {
		kvcellar__layer_codec__init(&parts.layers[i]);
		parts.layers[i].layer = (uint32_t)i;
		parts.layers[i].key = &parts.key;
		parts.layers[i].value = &parts.value;
		parts.layer_pointers[i] = &parts.layers[i];
	}
	parts.codec.layers = parts.layer_pointers;
}

static kvc_status open_parse(struct kvc_open_request *request)
{
	return kvc_parse_open(convert, pack(&parts.open.base), request, &problem);
}

static void open_refused(kvc_status expected, const char *field)
{
	struct kvc_open_request request;

	assert_refused(open_parse(&request), expected, field);
	open_reset();
}

static void open_accepted(void)
{
	struct kvc_open_request request;
	kvc_status status = open_parse(&request);

	if (status != KVC_OK)
		print_error("%s\n", problem.detail);
	assert_int_equal(status, KVC_OK);
	open_reset();
}

static void test_open(void **state)
{
	struct kvc_open_request request;

	(void)state;
	open_reset();
	parts.open.shard = 1;
	parts.open.shards = 2;
	assert_int_equal(open_parse(&request), KVC_OK);
	assert_int_equal(request.id, 1);
	assert_string_equal(request.options.tenant, "tenant-1");
	assert_string_equal(request.options.model, "meta/llama-3.1-8b@rev");
	assert_int_equal(request.options.shape.layers, 32);
	assert_int_equal(request.options.shape.heads, 8);
	assert_int_equal(request.options.shape.key_dim, 128);
	assert_int_equal(request.options.shape.tokens, 128);
	assert_int_equal(request.options.shape.dtype, KVC_DTYPE_BF16);
	assert_int_equal(request.options.shard, 1);
	assert_int_equal(request.options.codec.key.bits, 4);
	assert_int_equal(request.options.codec.value.bits, 2);
}

/* D10: a field that is not set is not a zero that was meant. */
static void test_d10_open_unset(void **state)
{
	(void)state;
	KVC_ROW("D10");
	open_reset();
	parts.open.id = 0;
	open_refused(KVC_INVALID, "id");
	parts.tenant[0] = 0;
	open_refused(KVC_INVALID, "tenant");
	parts.model[0] = 0;
	open_refused(KVC_INVALID, "model");
	parts.open.layers = 0;
	open_refused(KVC_SHAPE, "layers");
	parts.open.heads = 0;
	open_refused(KVC_SHAPE, "heads");
	parts.open.key_dim = 0;
	open_refused(KVC_SHAPE, "key_dim");
	parts.open.dtype = KVCELLAR__DTYPE__DTYPE_UNSET;
	open_refused(KVC_SHAPE, "dtype");
	parts.open.block_tokens = 0;
	open_refused(KVC_SHAPE, "block_tokens");
	parts.open.shards = 0;
	open_refused(KVC_SHAPE, "shard");
	parts.open.codec = NULL;
	open_refused(KVC_INVALID, "codec");
	parts.preset[0] = 0;
	open_refused(KVC_INVALID, "codec.key: missing");
	parts.open.value_dim = 0; /* means keys only */
	open_accepted();
}

/* D11, D12: too large alone, too large together, not of the right form. */
static void test_d11_d12_open_shape(void **state)
{
	(void)state;
	KVC_ROW("D11 D12");
	open_reset();
	parts.open.layers = 513;
	open_refused(KVC_SHAPE, "layers: 513");
	parts.open.layers = UINT32_MAX;
	open_refused(KVC_SHAPE, "layers");
	parts.open.heads = 257;
	open_refused(KVC_SHAPE, "heads");
	parts.open.key_dim = 1040;
	open_refused(KVC_SHAPE, "key_dim");
	parts.open.key_dim = 100;
	open_refused(KVC_SHAPE, "key_dim: 100");
	parts.open.value_dim = 8;
	open_refused(KVC_SHAPE, "value_dim");
	parts.open.block_tokens = 4097;
	open_refused(KVC_SHAPE, "block_tokens");
	parts.open.dtype = (Kvcellar__DType)4;
	open_refused(KVC_SHAPE, "dtype: 4");
	parts.open.shard = 1;
	open_refused(KVC_SHAPE, "shard: 1 of 1");
	parts.open.shard = UINT32_MAX;
	parts.open.shards = UINT32_MAX;
	open_refused(KVC_SHAPE, "shard");
	parts.open.layers = 512;
	parts.open.heads = 256;
	parts.open.key_dim = parts.open.value_dim = 1024;
	parts.open.block_tokens = 4096;
	parts.open.dtype = KVCELLAR__DTYPE__DTYPE_FP32;
	open_refused(KVC_SHAPE, "layers * heads * dims * tokens");
	parts.open.dtype = KVCELLAR__DTYPE__DTYPE_FP16;
	open_accepted();
}

static void test_open_names(void **state)
{
	static const char *const models[] = {
	        "a\nb", "\x7F", "\xC0\xAF", "\xED\xA0\x80",         "\xF4\x90\x80\x80", "\xE2\x82",
	        "\x80", "\xFF", "\xC2\x85", "\xF8\x88\x80\x80\x80", "\xE0\x80\xAF",     "tab\there"};

	(void)state;
	open_reset();
	for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
		strcpy(parts.model, models[i]);
		open_refused(KVC_INVALID, "model");
	}
	strcpy(parts.model, "\xE6\xA8\xA1\xE5\x9E\x8B \xF0\x9F\x99\x82 \xC3\xA4");
	open_accepted();
	memset(parts.model, 'm', 257);
	open_refused(KVC_INVALID, "model");
	memset(parts.model, 0, sizeof parts.model);
	memset(parts.model, 'm', 256);
	open_accepted();
	memset(parts.model, 0, sizeof parts.model);
	open_reset();
	memset(parts.tenant, 't', 65);
	open_refused(KVC_INVALID, "tenant");
	strcpy(parts.tenant, "ten ant");
	open_refused(KVC_INVALID, "tenant");
	strcpy(parts.tenant, "..");
	open_accepted();
}

/* A zero byte would end the C string early: "quality\0x" is not "quality". */
static void test_h7_zero_bytes(void **state)
{
	static const uint32_t fields[] = {2, 3, 12};
	static const char *const names[] = {"tenant", "model", "codec"};
	static const uint8_t string[] = {0x0A, 0x09, 'q', 'u', 'a', 'l', 'i', 't', 'y', 0, 'x'};
	struct kvc_open_request request;

	(void)state;
	KVC_ROW("H7");
	for (size_t i = 0; i < 3; i++) {
		struct kvc_body body;
		uint8_t *at;

		open_reset();
		body = pack(&parts.open.base);
		at = body_bytes + body.bytes;
		at[0] = (uint8_t)(fields[i] << 3 | 2);
		at[1] = fields[i] == 12 ? sizeof string : 9;
		memcpy(at + 2, string + (fields[i] == 12 ? 0 : 2), at[1]);
		body.bytes += 2u + at[1];
		assert_refused(kvc_parse_open(convert, body, &request, &problem), KVC_INVALID, names[i]);
	}
}

/* Parameters instead of a preset. */
static void explicit_codec(void)
{
	parts.preset[0] = 0;
	parts.codec.key = &parts.key;
	parts.codec.value = &parts.value;
}

static void test_open_codec(void **state)
{
	struct kvc_open_request request;

	(void)state;
	open_reset();
	strcpy(parts.preset, "best");
	open_refused(KVC_INVALID, "codec.preset");
	parts.codec.key = &parts.key;
	open_refused(KVC_INVALID, "not both");
	parts.preset[0] = 0;
	parts.codec.key = &parts.key;
	open_refused(KVC_INVALID, "codec.value: missing");

	explicit_codec();
	parts.key.bits = 1;
	open_refused(KVC_INVALID, "codec.key");
	explicit_codec();
	parts.key.bits = 260; /* 4 if it were cut to a byte */
	open_refused(KVC_INVALID, "codec.key.bits: 260");
	explicit_codec();
	parts.value.group = 65536 + 32;
	open_refused(KVC_INVALID, "codec.value");
	explicit_codec();
	parts.value.group = 48;
	open_refused(KVC_INVALID, "group 48");
	explicit_codec();
	parts.value.clip = NAN;
	open_refused(KVC_INVALID, "clip");
	explicit_codec();
	parts.value.clip = 1.5f;
	open_refused(KVC_INVALID, "clip");
	explicit_codec();
	parts.key.rotate = 1;
	assert_int_equal(open_parse(&request), KVC_OK);
	assert_true(request.options.codec.key.rotate);
	assert_int_equal(request.options.codec.key.group, 32);
}

static void test_open_layers(void **state)
{
	struct kvc_open_request request;

	(void)state;
	open_reset();
	parts.codec.n_layers = 16;
	assert_int_equal(open_parse(&request), KVC_OK);
	assert_int_equal(request.options.codec.override_count, 16);
	assert_int_equal(request.options.codec.overrides[15].layer, 15);
	parts.codec.n_layers = 17;
	open_refused(KVC_LIMIT, "codec.layers");
	parts.codec.n_layers = 2;
	parts.layers[1].layer = 0;
	open_refused(KVC_INVALID, "codec.layers.layer");
	parts.codec.n_layers = 1;
	parts.layers[0].layer = 32;
	open_refused(KVC_INVALID, "codec.layers.layer: 32");
	parts.codec.n_layers = 1;
	parts.layers[0].key = NULL;
	open_refused(KVC_INVALID, "codec.layers.key: missing");
	parts.codec.n_layers = 1;
	parts.layers[0].value = NULL;
	open_refused(KVC_INVALID, "codec.layers.value");
	parts.codec.n_layers = 0;
}

/* ---- attach, hello, ids -------------------------------------------------------------------- */

static void test_attach(void **state)
{
	struct kvc_attach_request request;
	Kvcellar__Attach attach;

	(void)state;
	kvcellar__attach__init(&attach);
	attach.plane = KVCELLAR__PLANE__PLANE_SHM;
	attach.bytes = 4096;
	assert_refused(kvc_parse_attach(convert, pack(&attach.base), &request, &problem), KVC_INVALID, "id");
	attach.id = 3;
	assert_int_equal(kvc_parse_attach(convert, pack(&attach.base), &request, &problem), KVC_OK);
	assert_int_equal(request.id, 3);
	assert_int_equal(request.bytes, 4096);
	attach.bytes = 0;
	assert_refused(kvc_parse_attach(convert, pack(&attach.base), &request, &problem), KVC_INVALID,
	               "bytes");
	attach.bytes = 1;
	attach.offset = 4096;
	assert_refused(kvc_parse_attach(convert, pack(&attach.base), &request, &problem), KVC_INVALID,
	               "offset");
	attach.offset = 0;
	attach.plane = KVCELLAR__PLANE__PLANE_INLINE;
	assert_refused(kvc_parse_attach(convert, pack(&attach.base), &request, &problem), KVC_INVALID,
	               "plane");
	attach.plane = (Kvcellar__Plane)99;
	assert_refused(kvc_parse_attach(convert, pack(&attach.base), &request, &problem), KVC_INVALID,
	               "plane");
}

static void test_hello(void **state)
{
	struct kvc_hello_request request;
	Kvcellar__Hello hello;
	char name[80] = "vllm worker 3";

	(void)state;
	kvcellar__hello__init(&hello);
	hello.client = name;
	hello.protocol_min = 1;
	hello.protocol_max = 9;
	assert_int_equal(kvc_parse_hello(convert, pack(&hello.base), &request, &problem), KVC_OK);
	assert_string_equal(request.client, "vllm worker 3");
	memset(name, 'n', 65);
	assert_refused(kvc_parse_hello(convert, pack(&hello.base), &request, &problem), KVC_INVALID,
	               "client");
	strcpy(name, "line\nfeed");
	assert_refused(kvc_parse_hello(convert, pack(&hello.base), &request, &problem), KVC_INVALID,
	               "client");
	name[0] = 0;
	hello.protocol_min = 10;
	assert_refused(kvc_parse_hello(convert, pack(&hello.base), &request, &problem), KVC_INVALID,
	               "protocol");
}

static void test_close_and_detach(void **state)
{
	Kvcellar__Detach detach;
	Kvcellar__Close close;
	uint32_t id;

	(void)state;
	kvcellar__close__init(&close);
	kvcellar__detach__init(&detach);
	assert_refused(kvc_parse_close(convert, pack(&close.base), &id, &problem), KVC_INVALID, "id");
	assert_refused(kvc_parse_detach(convert, pack(&detach.base), &id, &problem), KVC_INVALID, "id");
	close.id = detach.id = 5;
	assert_int_equal(kvc_parse_close(convert, pack(&close.base), &id, &problem), KVC_OK);
	assert_int_equal(kvc_parse_detach(convert, pack(&detach.base), &id, &problem), KVC_OK);
	assert_int_equal(id, 5);
}

/* ---- keys ---------------------------------------------------------------------------------- */

static void test_keys(void **state)
{
	static uint8_t bytes[65];
	ProtobufCBinaryData data[101];
	struct kvc_keys_request request;
	Kvcellar__Keys keys;

	(void)state;
	kvcellar__keys__init(&keys);
	for (size_t i = 0; i < 101; i++)
		data[i] = (ProtobufCBinaryData){1 + i % 64, bytes};
	keys.namespace_ = 2;
	keys.keys = data;
	assert_refused(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_INVALID,
	               "keys: empty");
	keys.n_keys = 101;
	assert_refused(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_LIMIT,
	               "keys: 101");
	keys.n_keys = 100;
	assert_int_equal(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_OK);
	assert_int_equal(request.count, 100);
	assert_int_equal(kvc_keys_at(&request, 63).bytes, 64);
	assert_false(request.prefetch);
	keys.prefetch = true;
	assert_int_equal(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_OK);
	assert_true(request.prefetch);
	data[7].len = 65;
	assert_refused(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_INVALID,
	               "keys[7]: 65");
	data[7].len = 0;
	assert_refused(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_INVALID,
	               "keys[7]: 0");
	data[7].len = 1;
	keys.deadline_ms = UINT32_MAX;
	assert_int_equal(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_OK);
	keys.namespace_ = 0;
	assert_refused(kvc_parse_keys(convert, pack(&keys.base), &limits, &request, &problem), KVC_INVALID,
	               "namespace");
}

/* ---- put and get --------------------------------------------------------------------------- */

static uint8_t key_bytes[65];
static Kvcellar__Block block;
static Kvcellar__Block *blocks[101];
static Kvcellar__Put put;

static void put_reset(void)
{
	kvcellar__block__init(&block);
	block.key = (ProtobufCBinaryData){3, key_bytes};
	block.tokens = 1;
	for (size_t i = 0; i < 101; i++)
		blocks[i] = &block;
	kvcellar__put__init(&put);
	put.namespace_ = 1;
	put.plane = KVCELLAR__PLANE__PLANE_SHM;
	put.region = 2;
	put.ack = KVCELLAR__ACK__ACK_DISK;
	put.n_blocks = 1;
	put.blocks = blocks;
}

static void put_refused(kvc_status expected, const char *field)
{
	struct kvc_blocks_request request;

	assert_refused(kvc_parse_put(convert, pack(&put.base), &limits, &request, &problem), expected, field);
	put_reset();
}

static void test_put(void **state)
{
	struct kvc_blocks_request request;

	(void)state;
	put_reset();
	put.expires_ns = 77;
	assert_int_equal(kvc_parse_put(convert, pack(&put.base), &limits, &request, &problem), KVC_OK);
	assert_true(request.durable);
	assert_int_equal(request.deadline.ms, 1000);
	assert_int_equal(request.deadline.expires_ns, 77);
	assert_int_equal(request.region, 2);
	assert_int_equal(kvc_blocks_at(&request, 0).tokens, 1);
	assert_int_equal(kvc_blocks_at(&request, 0).parent.bytes, 0);
}

static void test_d10_put_fields(void **state)
{
	static Kvcellar__Layout layout;

	(void)state;
	KVC_ROW("D10");
	kvcellar__layout__init(&layout);
	put_reset();
	put.namespace_ = 0;
	put_refused(KVC_INVALID, "namespace");
	put.ack = KVCELLAR__ACK__ACK_UNSET;
	put_refused(KVC_INVALID, "ack");
	put.ack = (Kvcellar__Ack)3;
	put_refused(KVC_INVALID, "ack: 3");
	put.plane = KVCELLAR__PLANE__PLANE_UNSET;
	put_refused(KVC_INVALID, "plane");
	put.plane = (Kvcellar__Plane)-1;
	put_refused(KVC_INVALID, "plane");
	put.plane = KVCELLAR__PLANE__PLANE_CUDA;
	put.key_layout = &layout;
	put_refused(KVC_INVALID, "key_layout");
	put.region = 0;
	put_refused(KVC_INVALID, "region");
	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put_refused(KVC_INVALID, "inline");
	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put.region = 0;
	put.key_layout = &layout;
	put_refused(KVC_INVALID, "inline");
	put.n_blocks = 0;
	put_refused(KVC_INVALID, "blocks: empty");
	put.n_blocks = 101;
	put_refused(KVC_LIMIT, "blocks: 101");
	block.tokens = 0;
	put_refused(KVC_SHAPE, "blocks.tokens[0]");
	block.key.len = 0;
	put_refused(KVC_INVALID, "blocks.key[0]");
	block.key.len = 65;
	put_refused(KVC_INVALID, "blocks.key[0]: 65");
	block.parent = (ProtobufCBinaryData){65, key_bytes};
	put_refused(KVC_INVALID, "blocks.parent[0]: 65");
}

static void test_get(void **state)
{
	struct kvc_blocks_request request;
	Kvcellar__Get get;

	(void)state;
	put_reset();
	kvcellar__get__init(&get);
	get.namespace_ = 1;
	get.plane = KVCELLAR__PLANE__PLANE_INLINE;
	get.deadline_ms = 5;
	get.n_blocks = 100;
	get.blocks = blocks; /* the same key again and again is fine */
	assert_int_equal(kvc_parse_get(convert, pack(&get.base), &limits, &request, &problem), KVC_OK);
	assert_int_equal(request.count, 100);
	assert_int_equal(request.deadline.ms, 5);
	get.deadline_ms = UINT32_MAX;
	assert_int_equal(kvc_parse_get(convert, pack(&get.base), &limits, &request, &problem), KVC_OK);
	assert_int_equal(request.deadline.ms, 60000);
	assert_int_equal(request.plane, KVC_PLANE_INLINE);
}

/* ---- D9: the body itself ------------------------------------------------------------------- */

/* Every prefix of a message is either a message or refused; nothing else happens. */
static void test_d9_truncated(void **state)
{
	struct kvc_open_request request;
	struct kvc_body body;

	(void)state;
	KVC_ROW("D9");
	open_reset();
	parts.codec.n_layers = 16;
	body = pack(&parts.open.base);
	for (size_t bytes = 0; bytes < body.bytes; bytes++) {
		struct kvc_body cut = {malloc(bytes + 1), bytes}; /* so that a sanitizer sees the end */

		assert_non_null(cut.data);
		memcpy((void *)(uintptr_t)cut.data, body.data, bytes);
		assert_int_not_equal(kvc_parse_open(convert, cut, &request, &problem), KVC_OK);
		kvc_row.injected++;
		free((void *)(uintptr_t)cut.data);
	}
	parts.codec.n_layers = 0;
}

/* Merging a repeated submessage is what makes protobuf-c's memory grow: it stays within the bound. */
static void test_d9_repeated_submessage(void **state)
{
	struct kvc_open_request request;
	struct kvc_body body = {body_bytes, 0};
	int64_t live = kvc_alloc_live();

	(void)state;
	KVC_ROW("D9");
	while (body.bytes + 4 <= sizeof body_bytes) {
		static const uint8_t codec_with_empty_layer[] = {0x62, 0x02, 0x22, 0x00};

		memcpy(body_bytes + body.bytes, codec_with_empty_layer, 4);
		body.bytes += 4;
	}
	assert_int_not_equal(kvc_parse_open(convert, body, &request, &problem), KVC_OK);
	assert_int_equal(kvc_alloc_live(), live);
}

static void test_d9_nothing_allocated(void **state)
{
	struct kvc_blocks_request request;
	uint64_t count = kvc_alloc_count();

	(void)state;
	put_reset();
	put.n_blocks = 100;
	for (int i = 0; i < 100; i++)
		assert_int_equal(kvc_parse_put(convert, pack(&put.base), &limits, &request, &problem),
		                 KVC_OK);
	assert_int_equal(kvc_alloc_count(), count);
}

static void test_open_without_memory(void **state)
{
	struct kvc_convert *other = NULL;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_convert_open(&other), KVC_NO_MEMORY);
	}
	kvc_alloc_fail_at(0, 0);
	assert_null(other);
}

/* ---- layouts ------------------------------------------------------------------------------- */

enum { LAYERS = 3, TOKENS = 5, HEADS = 2, ROW = 32 };

static const struct kvc_extent_shape extent = {"key", LAYERS, TOKENS, HEADS, ROW};

static kvc_status layout(int64_t layer, int64_t token, int64_t head, uint64_t offset, uint64_t window)
{
	struct kvc_wire_layout wire = {layer, token, head};
	struct kvc_block_layout strides;

	return kvc_layout_check(&extent, &wire, offset, window, &strides, &problem);
}

static void test_layout_default(void **state)
{
	const uint64_t bytes = LAYERS * TOKENS * HEADS * ROW;
	struct kvc_wire_layout absent = {0};
	struct kvc_block_layout strides;

	(void)state;
	assert_int_equal(kvc_layout_check(&extent, &absent, 0, bytes, &strides, &problem), KVC_OK);
	assert_int_equal(strides.head_stride, ROW);
	assert_int_equal(strides.token_stride, HEADS * ROW);
	assert_int_equal(strides.layer_stride, TOKENS * HEADS * ROW);
	assert_int_equal(layout(0, 0, 0, 1, bytes), KVC_SHAPE);
	assert_int_equal(layout(0, 0, 0, 0, bytes - 1), KVC_SHAPE);
	assert_int_equal(layout(0, 0, 0, 1, bytes + 1), KVC_OK);
}

static void test_layout_orders(void **state)
{
	(void)state;
	assert_int_equal(layout(1000, 64, 32, 0, 1 << 20), KVC_OK);  /* [layer][token][head] */
	assert_int_equal(layout(1000, 32, 160, 0, 1 << 20), KVC_OK); /* [layer][head][token] */
	assert_int_equal(layout(64, 192, 32, 0, 1 << 20), KVC_OK);   /* [token][layer][head] */
	assert_int_equal(layout(32, 192, 96, 0, 1 << 20), KVC_OK);   /* [token][head][layer] */
	assert_int_equal(layout(1000, 63, 32, 0, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(1000, 64, 31, 0, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(319, 64, 32, 0, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(1000, 64, 0, 0, 1 << 20), KVC_SHAPE);
}

static void test_d12_layout_negative_and_huge(void **state)
{
	(void)state;
	KVC_ROW("D12");
	assert_int_equal(layout(-1, 64, 32, 0, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(1000, INT64_MIN, 32, 0, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(1000, 64, -32, 0, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(INT64_MAX / 2, 64, 32, 0, UINT64_MAX), KVC_OK);
	assert_int_equal(layout(INT64_MAX, INT64_MAX, 32, 0, UINT64_MAX), KVC_SHAPE);
	assert_int_equal(layout(1000, 64, 32, UINT64_MAX, 1 << 20), KVC_SHAPE);
	assert_int_equal(layout(1000, 64, 32, UINT64_MAX - 100, UINT64_MAX), KVC_SHAPE);
	kvc_row.injected += 6;
	kvc_row_end();
}

/* Against a walk over all elements: accepted means within the window and no byte twice. */
static void test_layout_against_walk(void **state)
{
	enum { WINDOW = 2000 };
	static uint8_t used[WINDOW];
	unsigned accepted = 0;

	(void)state;
	srand(7);
	for (int round = 0; round < 200000; round++) {
		int64_t strides[3] = {rand() % 700, rand() % 400, rand() % 100};
		uint64_t offset = (uint64_t)rand() % 100;

		if (layout(strides[0], strides[1], strides[2], offset, WINDOW) != KVC_OK ||
		    (!strides[0] && !strides[1] && !strides[2]))
			continue;
		accepted++;
		memset(used, 0, sizeof used);
		for (int row = 0; row < LAYERS * TOKENS * HEADS; row++) {
			uint64_t at = offset + (uint64_t)(row / TOKENS / HEADS) * (uint64_t)strides[0] +
			              (uint64_t)(row / HEADS % TOKENS) * (uint64_t)strides[1] +
			              (uint64_t)(row % HEADS) * (uint64_t)strides[2];

			assert_true(at + ROW <= WINDOW);
			for (int i = 0; i < ROW; i++)
				assert_int_equal(used[at + (uint64_t)i]++, 0);
		}
	}
	assert_true(accepted > 100);
}

#define ROW_OF(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW_OF(test_open),
	        ROW_OF(test_d10_open_unset),
	        ROW_OF(test_d11_d12_open_shape),
	        ROW_OF(test_open_names),
	        ROW_OF(test_h7_zero_bytes),
	        ROW_OF(test_open_codec),
	        ROW_OF(test_open_layers),
	        ROW_OF(test_attach),
	        ROW_OF(test_hello),
	        ROW_OF(test_close_and_detach),
	        ROW_OF(test_keys),
	        ROW_OF(test_put),
	        ROW_OF(test_d10_put_fields),
	        ROW_OF(test_get),
	        ROW_OF(test_d9_truncated),
	        ROW_OF(test_d9_repeated_submessage),
	        ROW_OF(test_d9_nothing_allocated),
	        cmocka_unit_test(test_open_without_memory),
	        cmocka_unit_test(test_layout_default),
	        cmocka_unit_test(test_layout_orders),
	        cmocka_unit_test(test_d12_layout_negative_and_huge),
	        cmocka_unit_test(test_layout_against_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
