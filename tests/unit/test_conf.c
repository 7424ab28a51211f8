/* Configuration: values, files, flags, errors, defaults, reload, and the sample that is installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/conf/conf.h"
#include "daemon/conf/table.h"
#include "tests/support/temp_dir.h"

#define MIB (1024ull * 1024ull)

static char error[KVC_CONF_ERROR_BYTES];
static struct kvc_conf conf;
static enum kvc_conf_action action;

static kvc_status load(const char *const *flags)
{
	const char *argv[24] = {"kvcellard"};
	int argc = 1;

	while (*flags)
		argv[argc++] = *flags++;
	return kvc_conf_load(argc, (char *const *)(uintptr_t)argv, &conf, &action, error);
}

#define LOAD(...) load((const char *const[]){__VA_ARGS__, NULL})

/* A file with that text, and its name. */
static char path[256];

static const char *file_of(const char *text, size_t bytes)
{
	const char *folder = getenv("TMPDIR");
	int fd;

	snprintf(path, sizeof path, "%s/kvconf-XXXXXX", folder ? folder : "/tmp");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, bytes), bytes);
	close(fd);
	return path;
}

static kvc_status load_file(const char *text)
{
	kvc_status status = LOAD("--config", file_of(text, strlen(text)));

	unlink(path);
	return status;
}

static void assert_error(const char *part)
{
	if (!strstr(error, part))
		print_error("'%s' lacks '%s'\n", error, part);
	assert_non_null(strstr(error, part));
}

/* ---- defaults ------------------------------------------------------------------------------ */

static void test_defaults(void **state)
{
	cpu_set_t set;

	(void)state;
	assert_int_equal(load((const char *const[]){NULL}), KVC_OK);
	assert_int_equal(action, KVC_CONF_RUN);
	assert_string_equal(conf.socket, "auto");
	assert_int_equal(conf.ram, 0);
	assert_string_equal(conf.disk, "");
	assert_int_equal(conf.socket_mode, 0600);
	assert_int_equal(kvc_conf_resolve(&conf, 1000 * MIB, error), KVC_OK);
	assert_int_equal(conf.ram, 250 * MIB);
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_int_equal(conf.threads, CPU_COUNT(&set));
}

static void test_ram_is_bounded(void **state)
{
	(void)state;
	assert_int_equal(load((const char *const[]){NULL}), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, UINT64_MAX, error), KVC_OK);
	assert_int_equal(conf.ram, 4096 * MIB);
	conf.ram = 0;
	assert_int_equal(kvc_conf_resolve(&conf, 0, error), KVC_OK);
	assert_int_equal(conf.ram, 16 * MIB);
}

static void test_default_socket(void **state)
{
	(void)state;
	assert_int_equal(load((const char *const[]){NULL}), KVC_OK);
	setenv("RUNTIME_DIRECTORY", "/run/here", 1);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_OK);
	assert_string_equal(conf.socket, "/run/here/kvcellar.sock");
	unsetenv("RUNTIME_DIRECTORY");
	setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	strcpy(conf.socket, "auto");
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_OK);
	assert_string_equal(conf.socket,
	                    geteuid() == 0 ? "/run/kvcellar/kvcellar.sock" : "/run/user/7/kvcellar.sock");
	unsetenv("XDG_RUNTIME_DIR");
	strcpy(conf.socket, "auto");
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), geteuid() == 0 ? KVC_OK : KVC_INVALID);
}

/* ---- values -------------------------------------------------------------------------------- */

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* 0: refused */
	} cases[] = {
	        {"64M", 64 * MIB},
	        {"1048576", MIB},
	        {"1024K", MIB},
	        {"2G", 2048 * MIB},
	        {"1T", MIB * MIB},
	        {"0", 0},
	        {"1K", 0},
	        {"65T", 0},
	        {"", 0},
	        {"M", 0},
	        {"64m", 0},
	        {"64MB", 0},
	        {"64 M", 0},
	        {"-1M", 0},
	        {"+64M", 0},
	        {"1.5G", 0},
	        {"0x10M", 0},
	        {" 64M", 0},
	        {"16777216T", 0},
	        {"18446744073709551615", 0},
	        {"18446744073709551616", 0},
	        {"99999999999999999999999", 0},
	        {"64M64M", 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		kvc_status status = LOAD("--ram", cases[i].text);

		print_message("'%s'\n", cases[i].text);
		assert_int_equal(status, cases[i].bytes ? KVC_OK : KVC_INVALID);
		if (cases[i].bytes)
			assert_int_equal(conf.ram, cases[i].bytes);
		else
			assert_error("1M to 64T, or auto");
	}
}

static void test_other_types(void **state)
{
	(void)state;
	assert_int_equal(LOAD("--threads", "auto", "--simd=avx2", "--socket-mode", "0660",
	                      "--verify-on-start", "--allow-uids", "1, root,3", "--disk", "/a b/c"),
	                 KVC_OK);
	assert_int_equal(conf.threads, 0);
	assert_int_equal(conf.simd, 2);
	assert_int_equal(conf.socket_mode, 0660);
	assert_int_equal(conf.verify_on_start, 1);
	assert_int_equal(conf.allow_uids.count, 3);
	assert_int_equal(conf.allow_uids.ids[1], 0);
	assert_int_equal(conf.allow_uids.ids[2], 3);
	assert_string_equal(conf.disk, "/a b/c");
	assert_int_equal(LOAD("--verify-on-start=no"), KVC_OK);
	assert_int_equal(conf.verify_on_start, 0);
}

static void test_wrong_values(void **state)
{
	static const struct {
		const char *flag, *value, *expected;
	} cases[] = {
	        {"--threads", "0", "1 to 256"},
	        {"--threads", "257", "1 to 256"},
	        {"--simd", "sse", "auto, scalar, avx2, avx512"},
	        {"--simd", "AVX2", "one of"},
	        {"--socket-mode", "0999", "octal"},
	        {"--socket-mode", "1000", "octal"},
	        {"--allow-uids", "no-such-user", "names of users"},
	        {"--allow-gids", "no such group", "names of groups"},
	        {"--allow-uids", "4294967295", "numbers"},
	        {"--allow-uids", "1;2", "numbers"},
	        {"--disk", "/x\ny", "printable"},
	        {"--disk", "/x # comment", "printable"},
	        {"--batch", "4097", "1 to 4096"},
	        {"--gpu-hang-ms", "2999", "3000 to 600000"}, /* an engine waits two seconds for a worker */
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(LOAD(cases[i].flag, cases[i].value), KVC_INVALID);
		assert_error(cases[i].flag);
		assert_error(cases[i].value);
		assert_error(cases[i].expected);
	}
}

static void test_text_of_greatest_length(void **state)
{
	char text[KVC_CONF_TEXT_BYTES + 1];

	(void)state;
	memset(text, 'x', sizeof text);
	text[KVC_CONF_TEXT_BYTES - 1] = 0;
	assert_int_equal(LOAD("--disk", text), KVC_OK);
	text[KVC_CONF_TEXT_BYTES - 1] = 'x';
	text[KVC_CONF_TEXT_BYTES] = 0;
	assert_int_equal(LOAD("--disk", text), KVC_INVALID);
}

/* ---- command line -------------------------------------------------------------------------- */

static void test_wrong_flags(void **state)
{
	(void)state;
	assert_int_equal(LOAD("--rma", "1G"), KVC_INVALID);
	assert_error("did you mean '--ram'?");
	assert_int_equal(LOAD("--segment-sice=16M"), KVC_INVALID);
	assert_error("'--segment-size'");
	assert_int_equal(LOAD("--frobnicate"), KVC_INVALID);
	assert_error("unknown flag '--frobnicate' (see");
	assert_int_equal(LOAD("ram"), KVC_INVALID);
	assert_int_equal(LOAD("-r"), KVC_INVALID);
	assert_int_equal(LOAD("--"), KVC_INVALID);
	assert_int_equal(LOAD("--ram"), KVC_INVALID);
	assert_error("missing");
	assert_int_equal(LOAD("--ram", "1G", "--ram", "2G"), KVC_INVALID);
	assert_error("twice");
	assert_int_equal(LOAD("--help=yes"), KVC_INVALID);
	assert_int_equal(LOAD("--config"), KVC_INVALID);
	assert_int_equal(LOAD("--config", "/does/not/exist"), KVC_IO);
	assert_error("/does/not/exist");
	assert_int_equal(LOAD("--config", "/"), KVC_IO);
	assert_int_equal(LOAD("--config", "/dev/zero"), KVC_IO);
}

static void test_actions(void **state)
{
	(void)state;
	assert_int_equal(LOAD("--help"), KVC_OK);
	assert_int_equal(action, KVC_CONF_HELP);
	assert_int_equal(LOAD("--version"), KVC_OK);
	assert_int_equal(action, KVC_CONF_VERSION);
	assert_int_equal(LOAD("--print-config"), KVC_OK);
	assert_int_equal(action, KVC_CONF_PRINT);
}

static void test_help_has_every_option(void **state)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	(void)state;
	assert_non_null(out);
	kvc_conf_help(out);
	fclose(out);
	for (unsigned i = 0; i < kvc_option_count; i++) {
		char flag[80];

		snprintf(flag, sizeof flag, "  --%s ", kvc_options[i].name);
		assert_non_null(strstr(text, flag));
	}
	for (unsigned i = 0; i < kvc_tenant_option_count; i++) {
		char name[80];

		snprintf(name, sizeof name, "\n  %s ", kvc_tenant_options[i].name);
		assert_non_null(strstr(text, name));
	}
	free(text);
}

/* ---- file ---------------------------------------------------------------------------------- */

static void test_file(void **state)
{
	(void)state;
	assert_int_equal(load_file("# a comment\n; another\n\n[memory]\n  ram = 2G ; two\n[disk]\ndisk=/d\n"
	                           "[limits]\nbatch: 7"),
	                 KVC_OK);
	assert_int_equal(conf.ram, 2048 * MIB);
	assert_string_equal(conf.disk, "/d");
	assert_int_equal(conf.batch, 7);
}

static void test_flags_win(void **state)
{
	const char *text = "[memory]\nram = 2G\n[limits]\nbatch = 7\n";

	(void)state;
	assert_int_equal(LOAD("--ram", "1G", "--config", file_of(text, strlen(text))), KVC_OK);
	unlink(path);
	assert_int_equal(conf.ram, 1024 * MIB);
	assert_int_equal(conf.batch, 7);
}

static void test_wrong_files(void **state)
{
	static const struct {
		const char *text, *expected;
	} cases[] = {
	        {"[memory]\nram = 3Q\n", ":2: option 'ram': '3Q' is not a size"},
	        {"[memory]\nrma = 1G\n", ":2: unknown option 'rma', did you mean 'ram'?"},
	        {"[limits]\nram = 1G\n", ":2: option 'ram' belongs into section [memory], not [limits]"},
	        {"ram = 1G\n", ":1: option 'ram' belongs into section [memory]"},
	        {"[memroy]\n", ":1: unknown section 'memroy', did you mean 'memory'?"},
	        {"\n[nothing like it]\n", ":2: unknown section"},
	        {"[memory]\nram = 1G\nram = 1G\n", ":3: option 'ram' is set twice"},
	        {"[memory]\nram = 1G\n[memory]\nram = 2G\n", ":4: option 'ram' is set twice"},
	        {"[memory]\nram = 1G\n  ram = 2G\n", ":3: option 'ram' is set twice"},
	        {"[memory\nram = 1G\n", ":1: section header without ']'"},
	        {"[memory] ram = 1G\n", ":1: unexpected text"},
	        {"[memory]\nram\n", ":2: neither"},
	        {"[memory]\nram = 1G # big\n", ":2: option 'ram': '1G # big'"},
	        {"[memory]\nram = 1G 2G\n", ":2: option 'ram': '1G 2G'"},
	        {"[memory]\nram =\n", ":2: option 'ram': ''"},
	        {"[memory]\nram = 99999999999999999999\n", ":2: option 'ram'"},
	        {"[memory]\nRAM = 1G\n", ":2: unknown option 'RAM'"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(load_file(cases[i].text), KVC_INVALID);
		assert_error(cases[i].expected);
	}
}

/* ---- tenants ------------------------------------------------------------------------------- */

static void test_tenants(void **state)
{
	(void)state;
	assert_int_equal(
	        load_file("[memory]\nram = 1G\n[tenant research]\nram = 256M\nram-max=512M\n"
	                  "put-rate = 100M\nweight = 300\n[limits]\nbatch = 7\n"
	                  "[tenant a.name-of_64-bytes-which-is-more-than-libinih-keeps-of-a-section]\n"
	                  "disk-max = 1T\n[tenant *]\nget-rate = 1M\n"),
	        KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_OK);
	assert_int_equal(conf.tenant_count, 3);
	assert_string_equal(conf.tenants[0].name, "research");
	assert_int_equal(conf.tenants[0].ram, 256 * MIB);
	assert_int_equal(conf.tenants[0].ram_max, 512 * MIB);
	assert_int_equal(conf.tenants[0].put_rate, 100 * MIB);
	assert_int_equal(conf.tenants[0].weight, 300);
	assert_int_equal(conf.batch, 7);
	assert_int_equal(conf.tenants[1].disk_max, 1024 * 1024 * MIB);
	assert_int_equal(conf.tenants[1].weight, 100);
	assert_string_equal(conf.tenants[2].name, "*");
	assert_int_equal(conf.tenants[2].get_rate, MIB);
}

static void test_wrong_tenants(void **state)
{
	static const struct {
		const char *text, *expected;
	} cases[] = {
	        {"[tenant]\n", ":1: section [tenant ]: expected a name of 1 to 64 of [A-Za-z0-9._-], or *"},
	        {"[tenant a/b]\n", ":1: section [tenant a/b]: expected a name"},
	        {"[tenant a]\n\n[tenant a]\n", ":3: section [tenant a] is there twice"},
	        {"[tenants a]\n", ":1: unknown section 'tenants a'"},
	        {"[tennat]\n", ":1: unknown section 'tennat', did you mean 'tenant'?"},
	        {"[tenant a]\nrma-max = 1G\n", ":2: unknown option 'rma-max', did you mean 'ram-max'?"},
	        {"[tenant a]\nbatch = 7\n", ":2: unknown option 'batch'"},
	        {"[tenant a]\nram = 1\nram = 2\n", ":3: option 'ram' is set twice"},
	        {"[tenant a]\nweight = 0\n", ":2: option 'weight': '0' is not a number from 1 to 10000"},
	        {"[tenant a]\nput-rate = fast\n", ":2: option 'put-rate': 'fast' is not a size"},
	};
	static char many[8192];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(load_file(cases[i].text), KVC_INVALID);
		assert_error(cases[i].expected);
	}
	for (unsigned i = 0; i <= KVC_CONF_TENANTS_MAX; i++)
		snprintf(many + strlen(many), sizeof many - strlen(many), "[tenant t%u]\n", i);
	assert_int_equal(load_file(many), KVC_INVALID);
	assert_error(":65: more than 64 sections [tenant NAME]");
	assert_int_equal(load_file("[tenant a]\nram = 2M\nram-max = 1M\n"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_error("[tenant a]: ram is larger than ram-max");
	assert_int_equal(load_file("[memory]\nram = 3M\n[tenant a]\nram = 2M\n[tenant b]\nram = 2M\n"),
	                 KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_error("[tenant b]: ram: more is kept for tenants together than there is");
}

static void test_long_lines_and_zero_bytes(void **state)
{
	static const char zero[] = "[memory]\nram = 1G\0\n[disk]\n";
	char text[4096] = "[disk]\ndisk = ";

	(void)state;
	memset(text + strlen(text), 'x', 300);
	strcat(text, "\n");
	assert_int_equal(load_file(text), KVC_INVALID);
	assert_error(":2: line longer than");
	memset(text + 14, 'x', 3000);
	strcpy(text + 3014, "\n");
	assert_int_equal(load_file(text), KVC_INVALID);
	assert_error(":2: line longer than");
	assert_int_equal(LOAD("--config", file_of(zero, sizeof zero - 1)), KVC_INVALID);
	unlink(path);
	assert_error(":2: ");
}

static void test_contradictions(void **state)
{
	(void)state;
	assert_int_equal(LOAD("--deadline-default-ms", "2000", "--deadline-max-ms", "1000"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_error("deadline-max-ms");
	assert_int_equal(LOAD("--inline-max", "1G", "--inline-budget", "1M"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_int_equal(LOAD("--segment-size", "64M", "--disk-size", "128M"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_int_equal(LOAD("--socket="), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
}

/* The library keeps eight requests of a connection for itself. */
static void test_inflight_leaves_the_library_its_own(void **state)
{
	(void)state;
	assert_int_equal(LOAD("--inflight", "16"), KVC_OK);
	assert_int_equal(LOAD("--inflight", "15"), KVC_INVALID);
	assert_error("'15' is not a number from 16 to 65536");
}

/* ---- GPUs ---------------------------------------------------------------------------------- */

static void test_gpus(void **state)
{
	static const char *const wrong[] = {"",      "16",  "-1",   "0,0", "0;1",        "x",   "none,0",
	                                    "auto0", "0 x", "00 0", ",",   "4294967296", "1.5", "0,1,2,1"};

	(void)state;
	assert_int_equal(load((const char *const[]){NULL}), KVC_OK);
	assert_int_equal(conf.gpus.count, 0);
	assert_false(conf.gpus.automatic);
	assert_int_equal(LOAD("--gpus", "3, 0,15"), KVC_OK);
	assert_int_equal(conf.gpus.count, 3);
	assert_int_equal(conf.gpus.ordinals[0], 3);
	assert_int_equal(conf.gpus.ordinals[2], 15);
	assert_int_equal(LOAD("--gpus", "auto"), KVC_OK);
	assert_true(conf.gpus.automatic);
	assert_int_equal(LOAD("--gpus", "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"), KVC_OK);
	assert_int_equal(conf.gpus.count, 16);
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_int_equal(LOAD("--gpus", wrong[i]), KVC_INVALID);
		assert_error("none, auto, or numbers from 0 to 15");
	}
}

static void test_disk_budget(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* a day, of a tier of 1G */
		const char *printed;
	} cases[] = {
	        {"0", 0, "disk-budget = 0\n"},
	        {"500G", 500ull << 30, "disk-budget = 500G\n"},
	        {"1dwpd", 1ull << 30, "disk-budget = 1dwpd\n"},
	        {"0.5dwpd", 1ull << 29, "disk-budget = 0.5dwpd\n"},
	        {"0.001dwpd", (1ull << 30) / 1000, "disk-budget = 0.001dwpd\n"},
	        {"1000dwpd", 1000ull << 30, "disk-budget = 1000dwpd\n"},
	};
	static const char *const wrong[] = {"0dwpd",  "0.0001dwpd", "1001dwpd", "1000.1dwpd", "1.dwp", "dwpd",
	                                    "1 dwpd", "-1dwpd",     "1Gdwpd",   "all",        "1.5G"};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		static char text[1 << 16];
		FILE *out;

		assert_int_equal(LOAD("--disk-budget", cases[i].text, "--disk-size", "1G"), KVC_OK);
		out = fmemopen(text, sizeof text, "w");
		kvc_conf_print(&conf, out);
		(void)fclose(out);
		assert_non_null(strstr(text, cases[i].printed));
		(void)kvc_conf_resolve(&conf, MIB, error);
		assert_int_equal(conf.disk_budget, cases[i].bytes);
	}
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_int_equal(LOAD("--disk-budget", wrong[i]), KVC_INVALID);
		assert_error("0.001dwpd to 1000dwpd, or bytes a day");
	}
}

static void device_make(const char *folder, const char *name)
{
	char device[300];
	FILE *file;

	snprintf(device, sizeof device, "%s/%s", folder, name);
	file = fopen(device, "we");
	assert_non_null(file);
	fclose(file);
}

static void test_gpus_detected(void **state)
{
	static const char *const names[] = {"nvidia0", "nvidia3",     "nvidiactl", "nvidia-uvm",
	                                    "nvidia",  "nvidia-caps", "nvidia1x",  "null"};
	static const struct {
		const char *visible;
		uint32_t count;
	} cases[] = {{NULL, 2}, {"0,1,2", 2}, {"1", 1}, {"", 0}, {"-1", 0}, {"0,-1,1", 1}, {"GPU-5ac,7", 2}};
	char folder[KVC_TEMP_DIR_BYTES];
	struct kvc_conf_gpus gpus = {.automatic = true};

	(void)state;
	kvc_test_temp_dir(folder);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		device_make(folder, names[i]);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		kvc_conf_gpus_detect(folder, cases[i].visible, &gpus);
		assert_int_equal(gpus.count, cases[i].count);
		assert_true(gpus.automatic);
	}
	kvc_conf_gpus_detect(folder, NULL, &gpus);
	assert_int_equal(gpus.ordinals[1], 1);
	kvc_test_temp_dir_remove(folder);
	kvc_conf_gpus_detect(folder, NULL, &gpus);
	assert_int_equal(gpus.count, 0);
}

static void test_gpu_contradictions(void **state)
{
	(void)state;
	assert_int_equal(LOAD("--vram", "1G"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_error("vram needs a GPU: name them with --gpus");
	assert_int_equal(LOAD("--gpu-engine", "/x"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_error("gpu-engine needs a GPU");
	assert_int_equal(LOAD("--gpus", "0", "--gpu-engine="), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_INVALID);
	assert_error("gpu-engine: the path is empty");
	assert_int_equal(LOAD("--gpu-staging", "63M"), KVC_INVALID);
	assert_error("64M to 64G");
	assert_int_equal(LOAD("--gpus", "0", "--vram", "1G", "--socket", "/s"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_OK);
	assert_int_equal(conf.vram, 1024 * MIB);
	assert_int_equal(LOAD("--gpus", "auto", "--vram", "1G", "--socket", "/s"), KVC_OK);
	assert_int_equal(kvc_conf_resolve(&conf, MIB, error), KVC_OK);
}

/* ---- printing ------------------------------------------------------------------------------ */

static char *printed(size_t *bytes)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, bytes);

	assert_non_null(out);
	kvc_conf_print(&conf, out);
	fclose(out);
	return text;
}

static void test_print_reads_back(void **state)
{
	struct kvc_conf first;
	size_t bytes;
	char *text;

	(void)state;
	assert_int_equal(LOAD("--ram", "1536M", "--disk", "/d", "--allow-gids", "4,5", "--simd", "scalar",
	                      "--socket-mode", "0666", "--verify-on-start", "--disk-size", "1000000001",
	                      "--gpus=2,1"),
	                 KVC_OK);
	first = conf;
	text = printed(&bytes);
	assert_int_equal(load_file(text), KVC_OK);
	assert_memory_equal(&first, &conf, sizeof conf);
	free(text);
	assert_int_equal(load_file("[tenant a]\nram = 5M\nweight=7\n[tenant *]\nput-rate = 100\n"), KVC_OK);
	first = conf;
	text = printed(&bytes);
	assert_int_equal(load_file(text), KVC_OK);
	assert_memory_equal(&first, &conf, sizeof conf);
	free(text);
}

/* The installed sample is what --print-config prints. */
static void test_sample_is_current(void **state)
{
	FILE *sample = fopen("deploy/kvcellard.conf", "re");
	static char text[65536];
	size_t count;
	size_t bytes;
	char *now;

	(void)state;
	if (!sample) {
		print_message("not run from the source folder\n");
		skip();
	}
	count = fread(text, 1, sizeof text, sample);
	fclose(sample);
	assert_int_equal(load((const char *const[]){NULL}), KVC_OK);
	now = printed(&bytes);
	assert_int_equal(count, bytes);
	assert_memory_equal(text, now, bytes);
	free(now);
}

static void test_help_is_complete(void **state)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	(void)state;
	assert_non_null(out);
	kvc_conf_help(out);
	fclose(out);
	assert_null(strstr(text, "(null)"));
	for (unsigned i = 0; i < kvc_option_count; i++) {
		char line[64];

		snprintf(line, sizeof line, "  --%s ", kvc_options[i].name);
		assert_non_null(strstr(text, line));
	}
	free(text);
}

/* ---- reload -------------------------------------------------------------------------------- */

static void test_reload_takes_live_options_only(void **state)
{
	struct kvc_conf now;
	char ignored[256];

	(void)state;
	assert_int_equal(load((const char *const[]){NULL}), KVC_OK);
	now = conf;
	assert_int_equal(LOAD("--log-level", "debug", "--batch", "5", "--ram", "1G", "--disk", "/new"),
	                 KVC_OK);
	kvc_conf_reload(&now, &conf, ignored, sizeof ignored);
	assert_int_equal(now.log_level, 3);
	assert_int_equal(now.batch, 5);
	assert_int_equal(now.ram, 0);
	assert_string_equal(now.disk, "");
	assert_string_equal(ignored, "ram, disk");
	kvc_conf_reload(&now, &now, ignored, sizeof ignored);
	assert_string_equal(ignored, "");
	assert_int_equal(load_file("[tenant a]\nram = 1M\n[memory]\ntenant-idle-ms = 5000\n"), KVC_OK);
	kvc_conf_reload(&now, &conf, ignored, sizeof ignored);
	assert_int_equal(now.tenant_count, 1);
	assert_int_equal(now.tenants[0].ram, MIB);
	assert_int_equal(now.tenant_idle_ms, 5000);
}

/* What is kept for tenants is measured by the memory that the daemon has: not by what is left of the
 * machine's now, nor by what it would have after a restart. */
static void test_renewed_by_what_is_in_force(void **state)
{
	struct kvc_conf now;

	(void)state;
	assert_int_equal(LOAD("--socket", "/s"), KVC_OK);
	now = conf;
	assert_int_equal(kvc_conf_resolve(&now, 8192 * MIB, error), KVC_OK);
	assert_int_equal(now.ram, 2048 * MIB);
	assert_int_equal(load_file("[service]\nsocket = /s\n[tenant a]\nram = 2G\n"), KVC_OK);
	assert_int_equal(kvc_conf_renew(&now, &conf, 6144 * MIB, error), KVC_OK);
	assert_int_equal(now.ram, 2048 * MIB);
	assert_int_equal(now.tenants[0].ram, 2048 * MIB);
	assert_int_equal(load_file("[service]\nsocket = /s\n[memory]\nram = 4G\n[tenant a]\nram = 3G\n"),
	                 KVC_OK);
	assert_int_equal(kvc_conf_renew(&now, &conf, 6144 * MIB, error), KVC_INVALID);
	assert_non_null(strstr(error, "[tenant a]: ram"));
	assert_int_equal(now.tenants[0].ram, 2048 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_defaults),
	        cmocka_unit_test(test_ram_is_bounded),
	        cmocka_unit_test(test_default_socket),
	        cmocka_unit_test(test_sizes),
	        cmocka_unit_test(test_other_types),
	        cmocka_unit_test(test_wrong_values),
	        cmocka_unit_test(test_text_of_greatest_length),
	        cmocka_unit_test(test_wrong_flags),
	        cmocka_unit_test(test_actions),
	        cmocka_unit_test(test_help_has_every_option),
	        cmocka_unit_test(test_file),
	        cmocka_unit_test(test_flags_win),
	        cmocka_unit_test(test_wrong_files),
	        cmocka_unit_test(test_tenants),
	        cmocka_unit_test(test_wrong_tenants),
	        cmocka_unit_test(test_long_lines_and_zero_bytes),
	        cmocka_unit_test(test_contradictions),
	        cmocka_unit_test(test_inflight_leaves_the_library_its_own),
	        cmocka_unit_test(test_gpus),
	        cmocka_unit_test(test_disk_budget),
	        cmocka_unit_test(test_gpus_detected),
	        cmocka_unit_test(test_gpu_contradictions),
	        cmocka_unit_test(test_print_reads_back),
	        cmocka_unit_test(test_sample_is_current),
	        cmocka_unit_test(test_help_is_complete),
	        cmocka_unit_test(test_reload_takes_live_options_only),
	        cmocka_unit_test(test_renewed_by_what_is_in_force),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
