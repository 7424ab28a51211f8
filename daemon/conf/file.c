/* The configuration file: libinih splits it into sections, names and values; everything that libinih would
 * let pass (long lines, unknown or damaged sections, continuation lines) is refused here, line by line,
 * before it sees them. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/conf/table.h"

enum { LINE_BYTES = 1024 };

struct reading {
	const char *path;
	FILE *file;
	struct kvc_conf *conf;
	struct kvc_option_seen seen;
	struct kvc_conf_tenant *tenant; /* whose section this is; NULL: no tenant's */
	struct kvc_option_seen tenant_seen;
	unsigned line;
	char *error; /* empty as long as all is well: the first error stays */
};

__attribute__((format(printf, 2, 3))) static void complain(struct reading *reading, const char *format, ...)
{
	char what[KVC_CONF_ERROR_BYTES / 2];
	va_list arguments;

	if (*reading->error)
		return;
	va_start(arguments, format);
	vsnprintf(what, sizeof what, format, arguments);
	va_end(arguments);
	snprintf(reading->error, KVC_CONF_ERROR_BYTES, "%s:%u: %s", reading->path, reading->line, what);
}

/* libinih cuts long names of sections off, so that whose it is, is kept here. */
static void tenant_begin(struct reading *reading, const char *name)
{
	char error[256];

	reading->tenant = kvc_tenant_add(reading->conf, name, error, sizeof error);
	reading->tenant_seen = (struct kvc_option_seen){{0}};
	if (!reading->tenant)
		complain(reading, "%s", error);
}

/* "[name]", nothing behind it but a comment. */
static void section_check(struct reading *reading, const char *text)
{
	size_t name_bytes = strcspn(text + 1, "]");
	const char *rest = text + 1 + name_bytes;
	char name[128] = "";
	const char *near, *tenant;

	if (*rest)
		rest += 1 + strspn(rest + 1, " \t");
	else
		complain(reading, "section header without ']'");
	if (*rest && *rest != ';' && *rest != '#')
		complain(reading, "unexpected text after a section header: '%s'", rest);
	if (name_bytes < sizeof name)
		memcpy(name, text + 1, name_bytes);
	reading->tenant = NULL;
	if (kvc_tenant_section(name, &tenant)) {
		tenant_begin(reading, tenant);
		return;
	}
	if (kvc_section_known(name))
		return;
	near = kvc_section_nearest(name);
	complain(reading, "unknown section '%.*s'%s%s%s", (int)name_bytes, text + 1,
	         near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Strip blanks at both ends: an indented line would be taken for a continuation of the one before. */
static void line_trim(char *line)
{
	size_t lead = strspn(line, " \t");
	size_t bytes = strlen(line) - lead;

	memmove(line, line + lead, bytes + 1);
	while (bytes && isspace((unsigned char)line[bytes - 1]))
		line[--bytes] = 0;
}

/* One line for libinih, as fgets. */
static char *line_next(char *out, int room, void *context)
{
	struct reading *reading = context;
	char line[LINE_BYTES] = "";

	if (*reading->error || !fgets(line, sizeof line, reading->file))
		return NULL;
	reading->line++;
	if (!strchr(line, '\n') && !feof(reading->file))
		complain(reading, "line longer than %d bytes, or with a zero byte", LINE_BYTES - 2);
	line_trim(line);
	if (line[0] == '[')
		section_check(reading, line);
	if ((int)strlen(line) >= room)
		complain(reading, "line longer than %d bytes", room - 1);
	snprintf(out, (size_t)room, "%s", *reading->error ? "" : line);
	return out;
}

static const struct kvc_option *option_of(struct reading *reading, const char *section, const char *name)
{
	const struct kvc_option *option =
	        reading->tenant ? kvc_tenant_option_find(name) : kvc_option_find(name);
	const char *near = reading->tenant ? kvc_tenant_option_nearest(name) : kvc_option_nearest(name);

	if (!option) {
		complain(reading, "unknown option '%s'%s%s%s", name, near ? ", did you mean '" : "",
		         near ? near : "", near ? "'?" : "");
		return NULL;
	}
	if (!reading->tenant && strcmp(option->section, section)) {
		complain(reading, "option '%s' belongs into section [%s], not [%s]", name, option->section,
		         section);
		return NULL;
	}
	return option;
}

/* Called by libinih for each "name = value". Returns 0 on error. */
static int pair_take(void *context, const char *section, const char *name, const char *value)
{
	struct reading *reading = context;
	const struct kvc_option *option = option_of(reading, section, name);
	void *values = reading->tenant ? (void *)reading->tenant : reading->conf;
	char expected[256];
	bool *seen;

	if (!option)
		return 0;
	seen = reading->tenant ? &reading->tenant_seen.of[option - kvc_tenant_options]
	                       : &reading->seen.of[option - kvc_options];
	if (*seen) {
		complain(reading, "option '%s' is set twice", name);
		return 0;
	}
	*seen = true;
	if (kvc_option_parse(option, value, values, expected, sizeof expected) == KVC_OK)
		return 1;
	complain(reading, "option '%s': '%s' is not %s", name, value, expected);
	return 0;
}

/* A FIFO or a device would block or never end. */
static FILE *file_open(const char *path, char *error)
{
	struct stat stat;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		snprintf(error, KVC_CONF_ERROR_BYTES, "cannot read configuration file %s: %s", path,
		         strerror(errno));
		return NULL;
	}
	if (fstat(fd, &stat) || !S_ISREG(stat.st_mode)) {
		snprintf(error, KVC_CONF_ERROR_BYTES, "configuration file %s is not a regular file", path);
		close(fd);
		return NULL;
	}
	return fdopen(fd, "r");
}

kvc_status kvc_conf_read_file(const char *path, struct kvc_conf *conf, char *error)
{
	struct kvc_conf fresh = *conf;
	struct reading reading = {.path = path, .conf = &fresh, .error = error};
	int bad_line;

	*error = 0;
	reading.file = file_open(path, error);
	if (!reading.file)
		return KVC_IO;
	bad_line = ini_parse_stream(line_next, &reading, pair_take, &reading);
	if (!*error && ferror(reading.file))
		complain(&reading, "cannot be read: %s", strerror(errno));
	fclose(reading.file);
	if (bad_line && !*error) {
		reading.line = bad_line > 0 ? (unsigned)bad_line : reading.line;
		complain(&reading, "neither a [section] nor a 'name = value'");
	}
	if (*error)
		return KVC_INVALID;
	*conf = fresh;
	return KVC_OK;
}
