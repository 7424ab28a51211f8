/* Namespaces: the identity that keys are relative to. What the daemon must be told of one is kept as the
 * frame of its open request, so that it can be opened again on a new connection. */
#include <string.h>

#include "client/internal.h"

void kvc_namespace_options_init(struct kvc_namespace_options *options)
{
	*options = (struct kvc_namespace_options){
	        .size = sizeof(*options),
	        .tenant = "default",
	        .block_tokens = 128,
	        .shards = 1,
	        .preset = "quality",
	};
}

static unsigned element_bytes(uint32_t element)
{
	switch (element) {
	case KVC_ELEMENT_BF16:
	case KVC_ELEMENT_FP16:
		return 2;
	case KVC_ELEMENT_FP32:
		return 4;
	default:
		return 0;
	}
}

/* What the client itself must rely on; all else is the daemon's to judge. */
static kvc_status check_options(const struct kvc_namespace_options *options)
{
	if (!options || options->size < sizeof(*options))
		return kvcc_fail(KVC_INVALID, "namespace options not made by kvc_namespace_options_init");
	if (!options->tenant || !options->model || !options->model[0])
		return kvcc_fail(KVC_INVALID, "a namespace needs a tenant and a model");
	if (strlen(options->tenant) > KVC_TENANT_BYTES_MAX || strlen(options->model) > KVC_MODEL_BYTES_MAX)
		return kvcc_fail(KVC_INVALID, "tenant names have at most %u bytes, model names %u",
		                 KVC_TENANT_BYTES_MAX, KVC_MODEL_BYTES_MAX);
	if (element_bytes(options->element) == 0)
		return kvcc_fail(KVC_SHAPE, "element type %u: expected 1 (bf16), 2 (fp16) or 3 (fp32)",
		                 options->element);
	if (options->layer_coding_count > 0 && !options->layer_codings)
		return kvcc_fail(KVC_INVALID, "layer_coding_count without layer_codings");
	return KVC_OK;
}

/* Bytes of one token, or 0 if that overflows. */
static uint64_t token_bytes(const struct kvc_namespace_options *options)
{
	uint64_t dims = (uint64_t)options->key_dim + options->value_dim;
	uint64_t bytes;

	if (__builtin_mul_overflow(dims * element_bytes(options->element), options->heads, &bytes) ||
	    __builtin_mul_overflow(bytes, options->layers, &bytes) || bytes > UINT64_MAX >> 32)
		return 0;
	return bytes;
}

static struct kvc_namespace *namespace_new(struct kvc_client *client,
                                           const struct kvc_namespace_options *options)
{
	struct kvc_namespace *ns = kvcc_alloc_zero(1, sizeof(*ns));

	if (!ns)
		return NULL;
	kvcc_list_init(&ns->node);
	ns->client = client;
	ns->refs = 1;
	ns->block_tokens = options->block_tokens;
	ns->prefetch = options->prefetch != 0;
	ns->token_bytes = token_bytes(options);
	ns->shape = (struct kvcc_shape){
	        .layers = options->layers,
	        .heads = options->heads,
	        .dims = {options->key_dim, options->value_dim},
	        .element = options->element,
	        .element_bytes = element_bytes(options->element),
	};
	return ns;
}

void kvcc_namespace_free(struct kvc_namespace *ns)
{
	kvcc_list_remove(&ns->node);
	kvcc_free(ns->open_frame.bytes);
	kvcc_free(ns);
}

void kvcc_namespace_unref(struct kvc_client *client, struct kvc_namespace *ns)
{
	KVCC_INVARIANT(ns->refs > 0);
	if (--ns->refs > 0)
		return;
	ns->retired = true;
	client->chores = true;
}

static kvc_status encode_open(const struct kvcc_work *work, struct kvcc_request *request)
{
	return kvcc_buffer_copy(&request->frame, &work->ns->open_frame);
}

/* Number it and make the frame that opens it. */
static kvc_status namespace_enlist(struct kvc_client *client, struct kvc_namespace *ns,
                                   const struct kvc_namespace_options *options)
{
	kvc_status status = kvcc_enter(client);

	if (status != KVC_OK)
		return status;
	ns->id = client->next_id++;
	status = kvcc_wire_open(ns->id, options, &ns->open_frame);
	if (status == KVC_OK)
		kvcc_list_append(&client->namespaces, &ns->node);
	kvcc_leave(client);
	if (status == KVC_LIMIT)
		return kvcc_fail(status, "%zu layers with a coding of their own, 16 are possible",
		                 options->layer_coding_count);
	return status == KVC_OK ? KVC_OK : kvcc_fail(status, "no memory for a namespace");
}

kvc_status kvc_namespace_open(struct kvc_client *client, const struct kvc_namespace_options *options,
                              uint32_t deadline_ms, struct kvc_namespace **ns)
{
	struct kvcc_work work = {.verb = KVC_VERB_OPEN, .deadline_ms = deadline_ms, .encode = encode_open};
	struct kvcc_call call = {.status = KVC_OK};
	kvc_status status = check_options(options);

	if (status != KVC_OK)
		return status;
	if (!client || !ns)
		return kvcc_fail(KVC_INVALID,
		                 "kvc_namespace_open: no client, or nowhere to put the namespace");
	work.ns = namespace_new(client, options);
	if (!work.ns)
		return kvcc_fail(KVC_NO_MEMORY, "no memory for a namespace");
	status = namespace_enlist(client, work.ns, options);
	if (status != KVC_OK) {
		kvcc_namespace_free(work.ns);
		return status;
	}
	work.deadline_ns = kvcc_deadline(client, deadline_ms);
	status = kvcc_run(client, &work, &call);
	if (status != KVC_OK) {
		kvc_namespace_close(work.ns);
		return kvcc_fail(status, "%s", call.detail);
	}
	*ns = work.ns;
	return KVC_OK;
}

void kvc_namespace_close(struct kvc_namespace *ns)
{
	struct kvc_client *client;

	if (!ns)
		return;
	client = ns->client;
	if (kvcc_enter(client) != KVC_OK)
		return; /* a forked child: kvc_client_destroy frees it */
	kvcc_namespace_unref(client, ns);
	kvcc_leave(client);
}

uint64_t kvc_namespace_raw_bytes(const struct kvc_namespace *ns)
{
	return atomic_load_explicit(&ns->raw_bytes, memory_order_relaxed);
}

uint64_t kvc_namespace_image_bytes(const struct kvc_namespace *ns)
{
	return atomic_load_explicit(&ns->image_bytes, memory_order_relaxed);
}
