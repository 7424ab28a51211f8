/* The nearest valid name for a mistyped one. */
#include <string.h>

#include "daemon/conf/table.h"

enum { NAME_MAX_BYTES = 48 };

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned least = a < b ? a : b;

	return least < c ? least : c;
}

/* Edits (insert, delete, replace a character) between two names, row by row: O(length squared). */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[NAME_MAX_BYTES + 1];
	size_t a_bytes = strlen(a);
	size_t b_bytes = strlen(b);

	if (a_bytes > NAME_MAX_BYTES || b_bytes > NAME_MAX_BYTES)
		return NAME_MAX_BYTES;
	for (unsigned j = 0; j <= b_bytes; j++)
		row[j] = j;
	for (unsigned i = 1; i <= a_bytes; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= b_bytes; j++) {
			unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = min3(replaced, row[j] + 1, row[j - 1] + 1);
		}
	}
	return row[b_bytes];
}

struct candidate {
	const char *name;
	unsigned edits;
};

static void consider(struct candidate *best, const char *name, const char *typed)
{
	unsigned edits = distance(name, typed);

	if (edits < best->edits)
		*best = (struct candidate){name, edits};
}

/* More than a third of the characters wrong is no typing error. */
static struct candidate none_near(const char *typed)
{
	return (struct candidate){NULL, (unsigned)strlen(typed) / 3 + 2};
}

const char *kvc_option_nearest(const char *name)
{
	struct candidate best = none_near(name);

	for (unsigned i = 0; i < kvc_option_count; i++)
		consider(&best, kvc_options[i].name, name);
	return best.name;
}

const char *kvc_tenant_option_nearest(const char *name)
{
	struct candidate best = none_near(name);

	for (unsigned i = 0; i < kvc_tenant_option_count; i++)
		consider(&best, kvc_tenant_options[i].name, name);
	return best.name;
}

const char *kvc_section_nearest(const char *name)
{
	struct candidate best = none_near(name);

	for (unsigned i = 0; i < kvc_option_count; i++)
		consider(&best, kvc_options[i].section, name);
	consider(&best, KVC_TENANT_SECTION, name);
	return best.name;
}
