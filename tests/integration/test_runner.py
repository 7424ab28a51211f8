#!/usr/bin/env python3
"""The runner that counts the tests is tested itself: programs that pass, fail, skip, crash, hang, lie about their
number and leave things behind, and what the runner must say of each. TAP."""

import pathlib
import re
import subprocess
import sys
import tempfile

RUNNER = pathlib.Path(__file__).resolve().parents[1] / "runner.py"

# name: (shell script, passed, failed, skipped, what the output must name)
PROGRAMS = {
    "tap": ("echo 1..2; echo ok 1 - a; echo ok 2 - b", 2, 0, 0, ""),
    "plain": ("true", 1, 0, 0, ""),
    "plain_ok": ("echo ok; echo ok: all is well", 1, 0, 0, ""),
    "skip": ("echo 1..2; echo ok 1 - a; echo 'ok 2 - b # SKIP no disk'", 1, 0, 1, "b no disk"),
    "skip_cmocka": ("echo 1..1; echo 'not ok 1 # SKIP named'", 0, 0, 1, "named"),
    "skip_whole": ("echo the reason; exit 77", 0, 0, 1, "the reason"),
    "fail": ("echo 1..2; echo ok 1 - a; echo not ok 2 - thecase", 1, 1, 0, "thecase"),
    "status": ("exit 3", 0, 1, 0, "exit status 3"),
    "crash": ("echo 1..2; echo ok 1 - a; kill -SEGV $$", 1, 1, 0, "2 cases planned, 1 reported"),
    "crash_whole": ("kill -SEGV $$", 0, 1, 0, "SIGSEGV"),
    "too_few": ("echo 1..3; echo ok 1 - a", 1, 1, 0, "3 cases planned"),
    "too_many": ("echo 1..1; echo ok 1 - a; echo ok 2 - b", 2, 1, 0, "2 reported"),
    "bad_status": ("echo 1..1; echo ok 1 - a; exit 1", 1, 1, 0, "exit status 1"),
    "hang": ("echo 1..1; while :; do sleep 1; done", 0, 1, 0, "hung"),
    "leaves_file": ("touch $TMPDIR/thefile", 1, 1, 0, "thefile"),
    "leaves_process": ("sleep 999 & disown", 1, 1, 0, "sleep 999"),
    "leaves_daemon": ("setsid sleep 998 &", 1, 1, 0, "sleep 998"),
    "sanitizer": ("echo the finding > $TMPDIR/sanitizer.1", 1, 1, 0, "the finding"),
}


def run(folder, name, script):
    program = folder / name
    program.write_text("#!/bin/bash\n" + script + "\n")
    program.chmod(0o755)
    done = subprocess.run([sys.executable, RUNNER, "--name", "self", "--logs", folder / "logs", "--timeout", "2",
                           "--tmp", folder, program], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def verdict(name, expected, status, output):
    """What is wrong, or nothing."""
    script, passed, failed, skipped, said = expected
    last = output.strip().splitlines()[-1] if output.strip() else ""
    if last != f"self: {passed} passed, {failed} failed, {skipped} skipped":
        return f"the last line is {last!r}"
    if said not in output:
        return f"{said!r} is not in the output"
    # A program of which nothing passed proves nothing.
    if (status == 0) != (failed == 0 and passed > 0):
        return f"exit status {status}"
    return ""


def main():
    print(f"1..{len(PROGRAMS)}")
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for number, (name, expected) in enumerate(PROGRAMS.items(), 1):
            status, output = run(folder, name, expected[0])
            problem = verdict(name, expected, status, output)
            wrong += bool(problem)
            print(f"{'not ' if problem else ''}ok {number} - {name}")
            if problem:
                print("# " + problem + "\n# " + re.sub(r"\n", "\n# ", output))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
