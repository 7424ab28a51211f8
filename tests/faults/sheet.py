#!/usr/bin/env python3
"""The fault sheet: what every fault of rows.txt came to.

    sheet.py --run OUT [--name NAME] [--logs DIR] [--kills N] [--doc FILE]
        Runs every test program of the build in OUT that reports rows, and judges.
    sheet.py --name NAME [--logs DIR] [--partial]
        Judges what a run of tests/runner.py by that name has left: DIR/NAME.rows, written by the tests
        (tests/support/row.h), DIR/NAME.failures and DIR/NAME.skips. Adds its counts to DIR/NAME.counts.
        --partial: the run left programs out on purpose; a row of which no program told is skipped.

A row passes if its fault was injected at least once, every test that shows it passed and came to its end, no byte
was wrong, a sweep covered all its points, and descriptors and memory were back at their baseline. The last line is
`N passed, N failed, N skipped`; `pending`, `not here` and `not run` are the skipped ones. Exits 1 if a row failed.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent
COLUMNS = ("id", "injected", "sweep covered/total", "verified reads", "wrong bytes", "hangs", "crashes", "leaks",
           "verdict", "seed")
SUMS = ("injected", "points", "points_total", "verified", "wrong", "leaks")


class Row:
    def __init__(self, line):
        fields = [field.strip() for field in line.split("|")]
        self.id, self.fault, self.outcome = fields[:3]
        self.why = fields[3] if len(fields) > 3 else ""
        self.sums = collections.Counter()
        self.hangs = self.crashes = 0
        self.seed = 0
        self.tests = set()
        self.left_out = []  # tests that were skipped
        self.problems = []

    def verdict(self):
        if self.why:
            return self.why
        if self.sums["injected"] == 0:
            self.problems.append("the fault never fired")
        if self.sums["points"] < self.sums["points_total"]:
            self.problems.append("the sweep is not complete")
        for what in ("wrong", "leaks"):
            if self.sums[what]:
                self.problems.append(what)
        return "FAIL: " + "; ".join(sorted(set(self.problems))) if self.problems else "pass"

    def cells(self):
        sweep = f"{self.sums['points']}/{self.sums['points_total']}" if self.sums["points_total"] else "-"
        return (self.id, str(self.sums["injected"]), sweep, str(self.sums["verified"]), str(self.sums["wrong"]),
                str(self.hangs), str(self.crashes), str(self.sums["leaks"]), self.verdict(),
                str(self.seed or "-"))


def read_rows():
    lines = (HERE / "rows.txt").read_text(encoding="utf-8").splitlines()
    return {row.id: row for row in map(Row, (line for line in lines if line and not line.startswith("#")))}


def short_name(program):
    return re.sub(r"^.*tests/", "", program)


def read_reports(path):
    """For every test its last report of each row: one that only began did not come to its end."""
    reports = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            report = json.loads(line)
            report["program"] = short_name(report["program"])
            reports.setdefault((report["program"], report["test"], report["row"]), []).append(report)
    return reports


def read_items(path):
    """What the runner noted: {program: [item, ...]}."""
    items = collections.defaultdict(list)
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            _, program, item = line.split(": ", 2)
            items[program].append(item)
    return items


def take_report(row, reports, failures, skips):
    first = reports[0]
    program, test = first["program"], first["test"]
    if any(skip.split(" ")[0] == test for skip in skips):  # in all, or one, of the forms that it runs in
        row.left_out.append(f"{program} {test}")
        reports = [report for report in reports if report["state"] == "end" and report["injected"]]
        starts = len(reports)
    else:
        starts = sum(report["state"] == "begin" for report in reports)
    if not reports:
        return
    row.tests.add(f"{program} {test}")
    ends = [report for report in reports if report["state"] == "end"]
    if len(ends) < starts:
        hung = any(failure.startswith("hung") for failure in failures)
        row.hangs += hung
        row.crashes += not hung
        row.problems.append(f"{test} did not come to its end")
    for report in ends:
        row.sums.update({key: report[key] for key in SUMS})
        row.seed = report["seed"] or row.seed
    for failure in failures:
        if failure == test:
            row.problems.append(f"{test} failed")
        elif failure.startswith("left "):
            row.sums["leaks"] += 1
        elif not re.fullmatch(r"\w+", failure):
            row.problems.append(f"{program}: {failure}")


def judge(rows, logs, name):
    failures, skips = read_items(logs / f"{name}.failures"), read_items(logs / f"{name}.skips")
    unknown = set()
    for (program, _, row_id), reports in sorted(read_reports(logs / f"{name}.rows").items()):
        if row_id in rows:
            take_report(rows[row_id], reports, failures[program], skips[program])
        else:
            unknown.add(row_id)
    return unknown


def leave_out(rows):
    """What no program of the run shows was not run."""
    for row in rows.values():
        if not row.tests and not row.why:
            row.why = "not run: no program of this run shows it"


def note_skips(rows):
    """What can be shown on other machines only: its tests say why in their logs."""
    for row in rows.values():
        if row.left_out and not row.tests:
            row.why = f"not here: {', '.join(row.left_out)} skipped"


def counts_of(rows):
    verdicts = [row.verdict() for row in rows.values()]
    passed = sum(verdict == "pass" for verdict in verdicts)
    failed = sum(verdict.startswith("FAIL") for verdict in verdicts)
    return passed, failed, len(verdicts) - passed - failed


def print_sheet(rows):
    table = [COLUMNS] + [row.cells() for row in rows.values()]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS) - 2)]
    for line in table:
        print(" | ".join([cell.ljust(width) for cell, width in zip(line, widths)] + list(line[-2:])))


def write_document(path, rows, how):
    passed, failed, skipped = counts_of(rows)
    lines = ["# Fault sheet", "",
             "Written by `make faults`; do not edit. What each row is about, and which tests show it, is below the",
             "table. A row whose fault never fired fails. `pending`: the feature is not there yet; `not here`: cannot",
             "be shown on this kind of machine, or there is no such feature.", "", how, "",
             f"{passed} rows pass, {failed} fail, {skipped} are pending or not here.", "",
             "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows.values()]
    lines += ["", "| id | fault | must come of it | shown by |", "|---|---|---|---|"]
    for row in rows.values():
        tests = ", ".join(f"`{test}`" for test in sorted(row.tests)) or "-"
        lines.append(f"| {row.id} | {row.fault} | {row.outcome} | {tests} |")
    pathlib.Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def programs(out, kills):
    """Those whose source reports a row."""
    found = []
    for source in sorted(TESTS.glob("*/*.c")):
        if not re.search(r'KVC_ROW\("|kvc_row_begin\(profile', source.read_text(encoding="utf-8")):
            continue
        program = f"{out}/bin/tests/{source.parent.name}/{source.stem}"
        found.append(f"{program} --kills {kills}" if source.stem == "kill_loop" else program)
    return [program for program in found if os.access(program.split()[0], os.X_OK)]


def run(options, logs):
    logs.mkdir(parents=True, exist_ok=True)
    rows_file = (logs / f"{options.name}.rows").resolve()
    rows_file.unlink(missing_ok=True)
    os.environ["KVC_FAULT_SHEET"] = str(rows_file)
    os.environ.setdefault("KVC_BIN", f"{options.run}/bin")
    os.environ.setdefault("KVC_TEST_SEED", str(random.randrange(1, 1 << 32)))
    print(f"KVC_TEST_SEED={os.environ['KVC_TEST_SEED']}", flush=True)
    subprocess.run([sys.executable, str(TESTS / "runner.py"), "--name", options.name, "--logs", str(logs),
                    "--timeout", str(options.timeout), *programs(options.run, options.kills)], check=False)


def add_counts(logs, name, counts):
    path = logs / f"{name}.counts"
    before = [int(word) for word in path.read_text().split()] if path.is_file() else [0, 0, 0]
    sums = [a + b for a, b in zip(before, counts)]
    path.write_text(" ".join(map(str, sums)) + "\n")
    return sums


def note(logs, name, rows):
    """Rows that failed or were not run go where the tests' own do."""
    for what, start in (("failures", ("FAIL",)), ("skips", ("pending", "not here", "not run"))):
        with open(logs / f"{name}.{what}", "a", encoding="utf-8") as file:
            for row in rows.values():
                if row.verdict().startswith(start):
                    file.write(f"{name}: fault sheet: {row.id}: {row.verdict()}\n")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", metavar="OUT")
    parser.add_argument("--name", default="faults")
    parser.add_argument("--logs", default="build/test-logs")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--doc")
    parser.add_argument("--partial", action="store_true")
    return parser.parse_args()


def main():
    options = arguments()
    logs = pathlib.Path(options.logs)
    rows = read_rows()
    if options.run:
        run(options, logs)
    unknown = judge(rows, logs, options.name)
    note_skips(rows)
    if options.partial:
        leave_out(rows)
    print_sheet(rows)
    for row_id in sorted(unknown):
        print(f"no such row: {row_id}")
    counts = counts_of(rows)
    if options.doc:
        how = f"Seed of the run: {os.environ.get('KVC_TEST_SEED', '-')}; {options.kills} kills in A2."
        write_document(options.doc, rows, how)
    if options.run:
        print(f"{counts[0]} passed, {counts[1] + len(unknown)} failed, {counts[2]} skipped")
    else:
        note(logs, options.name, rows)
        sums = add_counts(logs, options.name, (counts[0], counts[1] + len(unknown), counts[2]))
        print(f"{options.name}: {sums[0]} passed, {sums[1]} failed, {sums[2]} skipped")
    return 1 if counts[1] or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
