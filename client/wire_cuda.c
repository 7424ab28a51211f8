/* Requests about device memory to protobuf. They are encoded once and sent again on every connection. */
#include "client/alloc.h"
#include "client/wire.h"
#include "client/wire_private.h"

static ProtobufCBinaryData bytes_of(const uint8_t *data, size_t bytes)
{
	return (ProtobufCBinaryData){.len = bytes, .data = (uint8_t *)(uintptr_t)data};
}

kvc_status kvcc_wire_attach_device(uint32_t region, const struct kvcc_wire_device *device,
                                   struct kvcc_buffer *out)
{
	Kvcellar__Attach attach = KVCELLAR__ATTACH__INIT;

	attach.id = region;
	attach.plane = KVCELLAR__PLANE__PLANE_CUDA;
	attach.bytes = device->bytes;
	attach.device = bytes_of(device->uuid, KVCC_CUDA_UUID_BYTES);
	if (device->handle)
		attach.handle = bytes_of(device->handle, KVCC_CUDA_HANDLE_BYTES);
	attach.n_chunk_bytes = device->handle ? 0 : device->chunks;
	attach.chunk_bytes = (uint64_t *)(uintptr_t)device->chunk_bytes;
	return kvcc_wire_pack(&attach.base, out);
}

static void strides_fill(const struct kvc_pool_strides *strides, Kvcellar__PoolStrides *fields)
{
	*fields = (Kvcellar__PoolStrides)KVCELLAR__POOL_STRIDES__INIT;
	fields->page = strides->page;
	fields->token = strides->token;
	fields->head = strides->head;
}

static void bases_fill(const struct kvcc_wire_base *bases, size_t count, Kvcellar__PoolBase *fields,
                       Kvcellar__PoolBase **pointers)
{
	for (size_t i = 0; i < count; i++) {
		fields[i] = (Kvcellar__PoolBase)KVCELLAR__POOL_BASE__INIT;
		fields[i].region = bases[i].region;
		fields[i].offset = bases[i].offset;
		pointers[i] = &fields[i];
	}
}

kvc_status kvcc_wire_pool(uint32_t id, const struct kvcc_wire_pool *pool, struct kvcc_buffer *out)
{
	size_t count = pool->values ? 2 * (size_t)pool->layers : pool->layers;
	Kvcellar__PoolBase *fields = kvcc_alloc(count, sizeof(*fields));
	Kvcellar__PoolBase **pointers = kvcc_alloc(count, sizeof(Kvcellar__PoolBase *));
	Kvcellar__Pool message = KVCELLAR__POOL__INIT;
	Kvcellar__PoolStrides strides[2];
	kvc_status status = KVC_NO_MEMORY;

	if (fields && pointers) {
		bases_fill(pool->bases, count, fields, pointers);
		strides_fill(&pool->key_strides, &strides[0]);
		strides_fill(&pool->value_strides, &strides[1]);
		message.id = id;
		message.namespace_ = pool->ns;
		message.pages = pool->pages;
		message.page_tokens = pool->page_tokens;
		message.key_strides = &strides[0];
		message.value_strides = pool->values ? &strides[1] : NULL;
		message.n_key_bases = pool->layers;
		message.key_bases = pointers;
		message.n_value_bases = count - pool->layers;
		message.value_bases = pointers + pool->layers;
		message.marks = KVCC_POOL_MARKS;
		status = kvcc_wire_pack(&message.base, out);
	}
	kvcc_free(fields);
	kvcc_free(pointers);
	return status;
}
