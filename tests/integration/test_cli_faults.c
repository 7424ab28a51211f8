/* The program kvcellar when the daemon misbehaves: it runs as a child against a fake daemon in this process.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/client_fixture.h"

enum { TOKENS = 300, ROW = 2 * 16 * 2, LAYERS = 2, BYTES = LAYERS * TOKENS * ROW };

#define SHAPE \
	"--model m --layers 2 --heads 2 --dim 16 --dtype bf16 --tokens 300 --block-tokens 100 --sequence s"

struct shell {
	struct fixture f;
	char folder[KVC_TEMP_DIR_BYTES];
	char said[4096];
	int code;
};

/* Run a shell command in which BIN, FOLDER and SOCKET are set; keep what it said and its exit code. */
static void run(struct shell *shell, const char *command)
{
	char line[2048];
	const char *bin = getenv("KVC_BIN");
	size_t got;
	FILE *pipe;

	(void)snprintf(line, sizeof(line),
	               "F=%s; KVCELLAR_SOCKET=%s; export KVCELLAR_SOCKET; P=%s/kvcellar; { %s; } 2>&1",
	               shell->folder, shell->f.path, bin ? bin : "build/bin", command);
	(void)fflush(NULL);
	pipe = popen(line, "r");
	assert_non_null(pipe);
	got = fread(shell->said, 1, sizeof(shell->said) - 1, pipe);
	shell->said[got] = '\0';
	shell->code = WEXITSTATUS(pclose(pipe));
}

static void expect(const struct shell *shell, int code, const char *part)
{
	if (shell->code != code || !strstr(shell->said, part))
		fail_msg("exit code %d, expected %d and '%s': %s", shell->code, code, part, shell->said);
}

static uint8_t content(size_t at)
{
	return (uint8_t)(at * 2654435761u >> 13);
}

static void begin(struct shell *shell)
{
	char path[KVC_TEMP_DIR_BYTES + 8];
	FILE *file;

	fixture_open_empty(&shell->f);
	fixture_start_daemon(&shell->f, NULL);
	kvc_test_temp_dir(shell->folder);
	(void)snprintf(path, sizeof(path), "%s/in", shell->folder);
	file = fopen(path, "wb");
	assert_non_null(file);
	for (size_t i = 0; i < BYTES; i++)
		(void)fputc(content(i), file);
	assert_int_equal(fclose(file), 0);
}

static void end(struct shell *shell)
{
	kvc_test_temp_dir_remove(shell->folder);
	fixture_close(&shell->f);
}

static void test_busy(void **state)
{
	struct shell shell;

	(void)state;
	begin(&shell);
	fake_daemon_rule(shell.f.daemon, KVC_VERB_PUT,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_BUSY, .times = 3});
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in");
	expect(&shell, 0, "blocks_stored");
	assert_int_equal(fake_daemon_seen(shell.f.daemon, KVC_VERB_PUT), 4);
	fake_daemon_rule(shell.f.daemon, KVC_VERB_PUT,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_BUSY});
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in --deadline-ms 50");
	expect(&shell, 1, "put failed (BUSY)");
	end(&shell);
}

static void test_refused(void **state)
{
	struct shell shell;

	(void)state;
	begin(&shell);
	fake_daemon_rule(shell.f.daemon, KVC_VERB_PUT,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_QUOTA});
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in");
	expect(&shell, 1, "put failed (QUOTA): put: over the tenant's quota: as the test wants it");
	fake_daemon_rule(shell.f.daemon, KVC_VERB_LOOKUP,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_IO});
	run(&shell, "$P get " SHAPE " --out-keys $F/k --out-values $F/v; c=$?; ls $F; exit $c");
	expect(&shell, 1, "look-up failed (IO)");
	assert_null(strstr(shell.said, "k."));
	end(&shell);
}

static void test_death(void **state)
{
	struct shell shell;

	(void)state;
	begin(&shell);
	fake_daemon_rule(shell.f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_CLOSE});
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in");
	expect(&shell, 1, "put failed (DISCONNECTED)");
	fake_daemon_rule(shell.f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD});
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in --deadline-ms 30");
	expect(&shell, 1, "put failed (DEADLINE)");
	end(&shell);
}

/* A get that a signal ends leaves no half of a file. */
static void test_interrupted(void **state)
{
	static const struct {
		const char *name;
		const char *told;
	} signals[] = {{"TERM", "ended with 143"}, {"HUP", "ended with 129"}};
	struct shell shell;

	(void)state;
	(void)signal(SIGHUP, SIG_DFL); /* under nohup it is ignored, and by the command line too */
	begin(&shell);
	fake_daemon_rule(shell.f.daemon, KVC_VERB_LOOKUP, (struct fake_rule){.action = FAKE_HOLD});
	for (size_t i = 0; i < 2; i++) {
		char line[512];

		(void)snprintf(line, sizeof(line),
		               "$P get " SHAPE " --out-keys $F/k --out-values $F/v & p=$!;"
		               "until ls $F/k.* $F/v.* >/dev/null 2>&1; do kill -0 $p || exit 9; done;"
		               "kill -%s $p; wait $p; echo ended with $?; ls $F",
		               signals[i].name);
		run(&shell, line);
		expect(&shell, 0, signals[i].told);
		assert_null(strstr(shell.said, "k."));
		assert_null(strstr(shell.said, "v."));
	}
	end(&shell);
}

/* The look-up finds three blocks, then the second does not come: the first is written, and that is said. */
static void shrinks(kvc_status why, int code, const char *told)
{
	static uint8_t raw[KVC_FRAME_HEADER_BYTES + 5];
	const uint8_t body[] = {0x0A, 3, KVC_OK, (uint8_t)why, KVC_OK};
	const struct kvc_frame frame = {
	        .verb = KVC_VERB_GET, .flags = KVC_FRAME_REPLY, .body_bytes = sizeof(body)};
	struct shell shell;

	begin(&shell);
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in");
	expect(&shell, 0, "blocks_stored");
	kvc_frame_encode(&frame, raw);
	memcpy(raw + KVC_FRAME_HEADER_BYTES, body, sizeof(body));
	fake_daemon_rule(
	        shell.f.daemon, KVC_VERB_GET,
	        (struct fake_rule){.action = FAKE_RAW, .bytes = raw, .length = sizeof(raw), .times = 1});
	run(&shell,
	    "$P get " SHAPE " --out-keys $F/k --out-values $F/v; c=$?;"
	    "head -c 6400 $F/in > $F/x; tail -c +19201 $F/in | head -c 6400 >> $F/x; cmp $F/x $F/k || exit 9;"
	    "cmp $F/x $F/v || exit 9; exit $c");
	expect(&shell, code, told);
	end(&shell);
}

static void test_shrinks(void **state)
{
	(void)state;
	shrinks(KVC_MISS, 3, "only 100 of 300 tokens are stored: the files hold those");
}

/* What is there and cannot be had is a failure. */
static void test_block_fails(void **state)
{
	static const kvc_status failures[] = {KVC_DEADLINE, KVC_QUOTA, KVC_IO};

	(void)state;
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		shrinks(failures[i], 1, kvc_status_name(failures[i]));
		shrinks(failures[i], 1, "only 100 of 300 tokens were restored: the files hold those");
	}
}

/* Some blocks are refused: how many, which first, and why. */
static void test_some_refused(void **state)
{
	static uint8_t raw[KVC_FRAME_HEADER_BYTES + 5];
	const uint8_t body[] = {0x0A, 3, KVC_OK, KVC_NO_SPACE, KVC_QUOTA};
	const struct kvc_frame frame = {
	        .verb = KVC_VERB_PUT, .flags = KVC_FRAME_REPLY, .body_bytes = sizeof(body)};
	struct shell shell;

	(void)state;
	begin(&shell);
	kvc_frame_encode(&frame, raw);
	memcpy(raw + KVC_FRAME_HEADER_BYTES, body, sizeof(body));
	fake_daemon_rule(shell.f.daemon, KVC_VERB_PUT,
	                 (struct fake_rule){.action = FAKE_RAW, .bytes = raw, .length = sizeof(raw)});
	run(&shell, "$P put " SHAPE " --keys $F/in --values $F/in");
	expect(&shell, 1,
	       "2 of 3 blocks were not stored; the first is block 1: no space in the tier (NO_SPACE)");
	end(&shell);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_busy),         cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_death),        cmocka_unit_test(test_shrinks),
	        cmocka_unit_test(test_interrupted),  cmocka_unit_test(test_block_fails),
	        cmocka_unit_test(test_some_refused),
	};

	return cmocka_run_group_tests_name("cli_faults", tests, NULL, NULL);
}
