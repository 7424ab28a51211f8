/* Reading traces. See trace.h. */
#include "client/cli/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"
#include "client/cli/settings.h"

enum { FIRST_ROOM = 1024 };

#define TIME_MAX_MS 1e12 /* 31 years: nanoseconds of it fit 64 bits */

/* From the trace's own block ids to numbers: open addressing, at most half full. */
struct ids {
	uint64_t *keys; /* 1 + id; 0: free */
	uint32_t *numbers;
	uint32_t capacity; /* a power of two, or 0 */
	uint32_t count;
};

struct reader {
	const char *command;
	const char *path;
	uint64_t line;
	double first_ms; /* timestamp of the first request */
	double last_ms;
	struct ids ids;
	struct kvc_trace *trace;
	uint32_t request_room;
	uint32_t block_room;
};

/* --- block ids --- */

static uint32_t ids_place(const struct ids *ids, uint64_t key)
{
	uint32_t mask = ids->capacity - 1;
	uint32_t place = (uint32_t)(key * 0x9E3779B97F4A7C15ull >> 32) & mask;

	while (ids->keys[place] && ids->keys[place] != key)
		place = (place + 1) & mask;
	return place;
}

static bool ids_grow(struct ids *ids)
{
	struct ids grown = {.capacity = ids->capacity ? 2 * ids->capacity : FIRST_ROOM, .count = ids->count};

	grown.keys = calloc(grown.capacity, sizeof(*grown.keys));
	grown.numbers = calloc(grown.capacity, sizeof(*grown.numbers));
	if (!grown.keys || !grown.numbers) {
		free(grown.keys);
		free(grown.numbers);
		return false;
	}
	for (uint32_t i = 0; i < ids->capacity; i++) {
		if (ids->keys[i]) {
			uint32_t place = ids_place(&grown, ids->keys[i]);

			grown.keys[place] = ids->keys[i];
			grown.numbers[place] = ids->numbers[i];
		}
	}
	free(ids->keys);
	free(ids->numbers);
	*ids = grown;
	return true;
}

/* false: out of memory */
static bool ids_number(struct ids *ids, uint64_t id, uint32_t *number)
{
	uint32_t place;

	if (2 * ids->count >= ids->capacity && !ids_grow(ids))
		return false;
	place = ids_place(ids, id + 1);
	if (!ids->keys[place]) {
		ids->keys[place] = id + 1;
		ids->numbers[place] = ids->count++;
	}
	*number = ids->numbers[place];
	return true;
}

/* --- requests --- */

/* Room for one more item; false: out of memory. */
static bool room(void **items, size_t bytes, uint32_t count, uint32_t *capacity)
{
	uint32_t more = *capacity ? 2 * *capacity : FIRST_ROOM;
	void *grown;

	if (count < *capacity)
		return true;
	grown = reallocarray(*items, more, bytes);
	if (!grown)
		return false;
	*items = grown;
	*capacity = more;
	return true;
}

static int bad(const struct reader *reader, const char *what)
{
	return kvc_failure(reader->command,
	                   "%s:%" PRIu64 ": %s; expected a line such as {\"timestamp\": 0, \"input_length\": "
	                   "1000, "
	                   "\"output_length\": 20, \"hash_ids\": [1, 2]}",
	                   reader->path, reader->line, what);
}

static int out_of_memory(const struct reader *reader)
{
	return kvc_failure(reader->command, "%s:%" PRIu64 ": out of memory", reader->path, reader->line);
}

static int read_time(struct reader *reader, const json_t *value, struct kvc_trace_request *request)
{
	double now = json_number_value(value);
	char text[128];

	if (!json_is_number(value) || !(now >= 0) || !isfinite(now))
		return bad(reader, "timestamp is missing, or no number of milliseconds from 0 on");
	if (reader->trace->request_count == 0)
		reader->first_ms = reader->last_ms = now;
	if (now - reader->first_ms > TIME_MAX_MS)
		return bad(reader, "timestamp is more than 10^12 ms after the first one");
	if (now < reader->last_ms) {
		(void)snprintf(text, sizeof(text), "timestamp %.0f is before that of the line before, %.0f",
		               now, reader->last_ms);
		return bad(reader, text);
	}
	reader->last_ms = now;
	request->time_ms = now - reader->first_ms;
	return -1;
}

static int read_length(struct reader *reader, const json_t *value, const char *name, uint64_t *tokens)
{
	char text[128];

	if (json_is_integer(value) && json_integer_value(value) >= 0) {
		*tokens = (uint64_t)json_integer_value(value);
		return -1;
	}
	(void)snprintf(text, sizeof(text), "%s is missing, or no whole number from 0 on", name);
	return bad(reader, text);
}

static int read_blocks(struct reader *reader, const json_t *list, struct kvc_trace_request *request)
{
	struct kvc_trace *trace = reader->trace;
	size_t i;
	json_t *item;

	if (!json_is_array(list))
		return bad(reader, "hash_ids is missing, or no list");
	request->first = trace->block_count;
	json_array_foreach(list, i, item)
	{
		uint32_t number;

		if (!json_is_integer(item) || json_integer_value(item) < 0)
			return bad(reader, "hash_ids has something that is no whole number from 0 on");
		if (trace->block_count == INT32_MAX)
			return bad(reader, "more than 2^31 blocks");
		if (!ids_number(&reader->ids, (uint64_t)json_integer_value(item), &number) ||
		    !room((void **)&trace->blocks, sizeof(*trace->blocks), trace->block_count,
		          &reader->block_room))
			return out_of_memory(reader);
		trace->blocks[trace->block_count++] = number;
	}
	request->count = trace->block_count - request->first;
	return -1;
}

static int read_request(struct reader *reader, const json_t *line)
{
	struct kvc_trace *trace = reader->trace;
	struct kvc_trace_request request;
	int code;

	if (!json_is_object(line))
		return bad(reader, "no JSON object");
	code = read_time(reader, json_object_get(line, "timestamp"), &request);
	if (code < 0)
		code = read_length(reader, json_object_get(line, "input_length"), "input_length",
		                   &request.input_tokens);
	if (code < 0)
		code = read_length(reader, json_object_get(line, "output_length"), "output_length",
		                   &request.output_tokens);
	if (code < 0)
		code = read_blocks(reader, json_object_get(line, "hash_ids"), &request);
	if (code >= 0)
		return code;
	if (!room((void **)&trace->requests, sizeof(*trace->requests), trace->request_count,
	          &reader->request_room))
		return out_of_memory(reader);
	trace->requests[trace->request_count++] = request;
	return -1;
}

static int read_line(struct reader *reader, const char *text, size_t bytes)
{
	json_error_t error;
	json_t *line;
	char what[sizeof(error.text) + 32];
	int code;

	reader->line++;
	if (strspn(text, " \t\r\n") == bytes)
		return -1;
	line = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	if (!line) {
		(void)snprintf(what, sizeof(what), "no JSON: %s", error.text);
		return bad(reader, what);
	}
	code = read_request(reader, line);
	json_decref(line);
	return code;
}

static int read_all(struct reader *reader, FILE *file)
{
	char *text = NULL;
	size_t capacity = 0;
	ssize_t bytes;
	int code = -1;

	errno = 0;
	while (code < 0 && (bytes = getline(&text, &capacity, file)) >= 0)
		code = read_line(reader, text, (size_t)bytes);
	if (code < 0 && !feof(file))
		code = kvc_failure(reader->command, "cannot read %s: %s", reader->path, strerror(errno));
	free(text);
	if (code < 0 && reader->trace->block_count == 0)
		code = kvc_failure(reader->command, "%s: no request with a block in it", reader->path);
	return code;
}

int kvc_trace_read(const char *command, const char *path, struct kvc_trace *trace)
{
	struct reader reader = {.command = command, .path = path, .trace = trace};
	FILE *file = fopen(path, "r");
	int code;

	*trace = (struct kvc_trace){0};
	if (!file)
		return kvc_failure(command, "cannot open %s: %s", path, strerror(errno));
	code = read_all(&reader, file);
	(void)fclose(file);
	trace->distinct = reader.ids.count;
	trace->duration_ms = reader.last_ms - reader.first_ms;
	free(reader.ids.keys);
	free(reader.ids.numbers);
	if (code >= 0)
		kvc_trace_free(trace);
	return code;
}

void kvc_trace_free(struct kvc_trace *trace)
{
	free(trace->requests);
	free(trace->blocks);
	*trace = (struct kvc_trace){0};
}
