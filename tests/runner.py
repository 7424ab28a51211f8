#!/usr/bin/env python3
"""Runs test programs and counts what they report.

    runner.py --name VARIANT --logs DIR [--jobs N] PROGRAM...

A program reports each of its test cases in TAP on its standard output (cmocka does with
CMOCKA_MESSAGE_OUTPUT=TAP); one that prints no TAP at all is one case, by its exit status (77: skipped, the last
line says why). PROGRAM may have arguments, separated by blanks. Besides a case that fails, these are failures of
their own, by name: a crash, a hang (its process group is killed), a plan that was not kept, a sanitizer's report
in the program or in any process that it started, a process or a temporary file that it left behind.

Each program gets a temporary directory of its own as TMPDIR, with a short name, on a disk where there is one. Those
that simulate a disk, or what goes wrong with one, get it in memory: what a real one would be waited for proves nothing.
Writes DIR/NAME/PROGRAM.log and DIR/NAME.counts (`passed failed skipped`), DIR/NAME.skips; exits 1 on any failure.
"""

import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
SKIP_STATUS = 77
KILL_GRACE_S = 5
LEAVE_GRACE_S = 2
MEMORY = "/dev/shm"
MEMORY_LEAST = 2 << 30
SIMULATES = r"/sim/|unit/test_disk_(checkpoint|crash|keep|poison|scrub|summary)|unit/test_stripe"
ALONE = r"/fault(?!/test_(alloc_sweep|baseline))"
# Nearly all of their time is that of timers: beside the others, they cost nobody anything.
WAIT = r"unit/test_(disk_(fault|waits|scrub)|gpu|client_faults)$|integration/test_(clients|gpu_daemon)$"
WAIT_JOBS = 2
SUPPRESSIONS = pathlib.Path(__file__).resolve().parent / "support" / "tsan.supp"


def short_name(program):
    """A program without the folders that are the same for all; one that runs another is known by that."""
    words = program.split()
    name = re.sub(r"^.*tests/", "", words[0])
    if name in ("fuzz/replay.sh", "gpu/e2e_fake.sh", "gpu/apart.sh"):
        name += " " + words[1].rsplit("/", 1)[-1]
    return name


class Result:
    def __init__(self, program):
        self.program = program
        self.passed = 0
        self.failures = []
        self.skips = []
        self.seconds = 0.0
        self.output = ""

    def line(self):
        return (f"{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped"
                f"  ({self.seconds:.1f} s)")


def parse_tap(output, status, result):
    planned = reported = 0
    for line in output.splitlines():
        plan = re.match(r"1\.\.(\d+)(?:\s*# SKIP\s*(.*))?\s*$", line)
        case = re.match(r"(not )?ok\b\s*(\d+)?\s*(?:- )?(.*)$", line)
        if plan:
            planned += int(plan.group(1))
            if plan.group(2):
                result.skips.append(plan.group(2))
        elif case:
            reported += 1
            count_case(case.group(1) is None, case.group(3).strip() or f"case {reported}", result)
    if planned == 0 and not result.skips:  # no TAP, whatever its lines look like
        result.passed, result.failures = 0, []
        count_whole(output, status, result)
    elif reported != planned:
        result.failures.append(f"{planned} cases planned, {reported} reported")
    elif status not in (0, SKIP_STATUS) and not result.failures:
        result.failures.append(f"all cases passed, but {describe(status)}")


def count_case(passed, name, result):
    skip = re.match(r"(.*?)\s*# SKIP\s*(.*)$", name, re.I)
    if skip:  # cmocka puts the name where TAP has the reason
        result.skips.append(" ".join(part for part in skip.groups() if part))
    elif passed:
        result.passed += 1
    else:
        result.failures.append(name)


def count_whole(output, status, result):
    lines = output.strip().splitlines()
    if status == 0:
        result.passed += 1
    elif status == SKIP_STATUS:
        result.skips.append(lines[-1] if lines else "no reason given")
    else:
        result.failures.append(describe(status))


def describe(status):
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"exit status {status}"


def children_of(pid):
    """Live processes whose parent is `pid`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry))
    return found


def environment_of(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def memory_is_large():
    if not os.access(MEMORY, os.W_OK):
        return False
    system = os.statvfs(MEMORY)
    return system.f_bavail * system.f_frsize >= MEMORY_LEAST


class Runner:
    def __init__(self, options):
        self.options = options
        self.logs = pathlib.Path(options.logs) / options.name
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.lock = threading.Lock()
        self.interrupted = threading.Event()
        self.groups = set()
        # What a test leaves behind becomes our child, so that it can be seen and ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def environment(self, folder):
        reports = f"log_path={folder}/sanitizer:print_stacktrace=1"
        return os.environ | {
            "TMPDIR": str(folder), "CMOCKA_MESSAGE_OUTPUT": "TAP", "KVC_TEST_HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            # Not detect_stack_use_after_return: gcc 12 aligns its fake stack to 32 bytes, where AVX-512
            # code was promised 64, and the program crashes (gcc bug 110027).
            "ASAN_OPTIONS": f"{reports}:detect_leaks=1",
            "UBSAN_OPTIONS": reports,
            "TSAN_OPTIONS": f"{reports}:second_deadlock_stack=1:suppressions={SUPPRESSIONS}",
        }

    def run(self, program):
        result = Result(program)
        start = time.monotonic()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="kvc-", dir=self.parent_of(program)))
        folder.chmod(0o755)  # tests of access run parts of themselves as other users
        try:
            status, result.output = self.execute(program, folder, result)
            if status is not None:
                parse_tap(result.output, status, result)
            self.find_leftovers(folder, result)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        result.seconds = time.monotonic() - start
        return result

    def parent_of(self, program):
        return MEMORY if re.search(SIMULATES, program) and memory_is_large() else self.options.tmp

    def execute(self, program, folder, result):
        command = [*self.options.prefix.split(), *program.split()]
        log = self.log_path(program)
        with open(log, "wb") as sink:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                                     env=self.environment(folder), start_new_session=True)
            with self.lock:
                self.groups.add(child.pid)
            status = self.wait(child, result)
            with self.lock:
                self.groups.discard(child.pid)
        return status, log.read_text(encoding="utf-8", errors="replace")

    def wait(self, child, result):
        try:
            return child.wait(self.options.timeout)
        except subprocess.TimeoutExpired:
            result.failures.append(f"hung: no end within {self.options.timeout} s")
        # SIGABRT first: sanitizers and handlers can still say where it stood.
        for number in (signal.SIGABRT, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                pass
            try:
                child.wait(KILL_GRACE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        return None

    def find_leftovers(self, folder, result):
        """Sanitizer reports, processes and files that belong to this program's temporary directory."""
        for pid in self.left_processes(folder):
            result.failures.append(f"left process {pid} behind: {command_of(pid)}")
            os.kill(pid, signal.SIGKILL)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("sanitizer."):
                report = path.read_text(encoding="utf-8", errors="replace")
                if result.failures and "LeakSanitizer" in report:
                    continue  # a case that failed has not freed what it held: that says nothing more
                result.failures.append(f"sanitizer report ({path.name})")
                result.output += "\n" + report
            elif path.name.startswith("tsan.rodata."):
                continue  # the sanitizer's own, of a process that was killed while it began
            elif not result.failures:  # a test that failed has not cleaned up: that says nothing more
                result.failures.append(f"left a temporary file behind: {path.name}")

    def left_processes(self, folder):
        """Those that are still there when what was just ending has had its time. One in the middle of its exec
        shows no environment for a moment: it is looked at again."""
        mark = f"TMPDIR={folder}".encode()
        end = time.monotonic() + LEAVE_GRACE_S
        while True:
            environments = {pid: environment_of(pid) for pid in children_of(os.getpid())}
            left = [pid for pid, text in environments.items() if mark in text.split(b"\0")]
            unsure = [pid for pid, text in environments.items() if not text]
            if not (left or unsure) or time.monotonic() > end:
                return left
            time.sleep(0.02)

    def log_path(self, program):
        return self.logs / (re.sub("[/ ]", "-", short_name(program)) + ".log")

    def report(self, result):
        name, short = result.program, short_name(result.program)
        with self.lock:
            print(f"{self.options.name:12}  {short:36} {result.line()}", flush=True)
            for skip in result.skips:
                print(f"{'':14}skipped: {short}: {skip}", flush=True)
            if not result.failures:
                return
            print(f"---- {name}: whole output ----\n{result.output.rstrip()}\n---- end of {name} ----")
            for failure in result.failures:
                print(f"{'':14}FAILED: {short}: {failure}", flush=True)

    def run_and_report(self, program):
        if self.interrupted.is_set():
            return None
        result = self.run(program)
        if not self.interrupted.is_set():
            self.report(result)
        return result

    def interrupt(self, number, _):
        self.interrupted.set()
        with self.lock:
            for group in self.groups:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        raise SystemExit(128 + number)

    def run_all(self):
        """Fault tests load the machine and measure the time of answers: one at a time, after the others. Sweeps do not."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.interrupt)
        alone = [program for program in self.options.programs if re.search(ALONE, program)]
        waits = [program for program in self.options.programs if re.search(WAIT, program)]
        together = [program for program in self.options.programs if program not in alone and program not in waits]
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool, \
                concurrent.futures.ThreadPoolExecutor(WAIT_JOBS) as beside:
            waited = beside.map(self.run_and_report, waits)
            results = [*pool.map(self.run_and_report, together), *waited]
        return results + [self.run_and_report(program) for program in alone]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--logs", required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() + 1)  # most tests wait for something now and then
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--tmp", default=os.environ.get("KVC_TEST_TMP") or
                        ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None))
    parser.add_argument("programs", nargs="+")
    return parser.parse_args()


def summarise(options, results):
    logs = pathlib.Path(options.logs)
    passed, failed, skipped = (sum(numbers) for numbers in zip(*(
        (result.passed, len(result.failures), len(result.skips)) for result in results)))
    (logs / f"{options.name}.counts").write_text(f"{passed} {failed} {skipped}\n")
    for what in ("skips", "failures"):
        lines = [f"{options.name}: {short_name(result.program)}: {item}\n"
                 for result in results for item in getattr(result, what)]
        (logs / f"{options.name}.{what}").write_text("".join(lines))
    print(f"{options.name}: {passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or passed == 0 else 0


def main():
    options = arguments()
    return summarise(options, Runner(options).run_all())


if __name__ == "__main__":
    sys.exit(main())
