/* Store one block of a KV cache and get it back. cc quickstart.c $(pkg-config --cflags --libs kvcellar) */
#include <kvcellar.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct kvc_client *client = NULL;
	struct kvc_memory *memory = NULL;
	struct kvc_namespace *ns = NULL;
	struct kvc_namespace_options shape;
	struct kvc_transfer transfer;
	struct kvc_block block = {.key = "prefix-hash-1", .key_bytes = 13, .tokens = 128};

	kvc_namespace_options_init(&shape);
	shape.model = "my-model";
	shape.layers = 32;
	shape.heads = 8;
	shape.key_dim = shape.value_dim = 128;
	shape.element = KVC_ELEMENT_BF16;
	if (kvc_client_create(NULL, &client) != KVC_OK ||
	    kvc_namespace_open(client, &shape, 0, &ns) != KVC_OK ||
	    kvc_memory_create(client, kvc_namespace_raw_bytes(ns), &memory) != KVC_OK)
		goto failed;
	memset(kvc_memory_data(memory), 0x3F, kvc_memory_bytes(memory)); /* K of all layers, then V */
	block.value_offset = kvc_namespace_raw_bytes(ns) / 2;
	kvc_transfer_init(&transfer, memory);
	if (kvc_put(ns, &transfer, &block, 1, NULL) != KVC_OK ||
	    kvc_get(ns, &transfer, &block, 1, NULL) != KVC_OK)
		goto failed;
	printf("restored: %s\n", kvc_status_text(block.status));
	kvc_client_destroy(client); /* also of what was made with it */
	return 0;
failed:
	fprintf(stderr, "%s\n", kvc_last_error());
	kvc_client_destroy(client);
	return 1;
}
