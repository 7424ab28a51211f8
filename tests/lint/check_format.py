#!/usr/bin/env python3
"""clang-format decides the layout. Versions differ in details, so only the one the project is written with
is asked: major version 14 (Debian 12; clang-format-14 elsewhere)."""

import re
import shutil
import subprocess
import sys

import source

MAJOR = 14


def find_tool():
    for name in (f"clang-format-{MAJOR}", "clang-format"):
        tool = shutil.which(name)
        if not tool:
            continue
        version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
        match = re.search(r"version (\d+)", version)
        if match and int(match.group(1)) == MAJOR:
            return tool
    return None


def main():
    top, report, tool = source.root(), source.Report(), find_tool()
    if not tool:
        source.skip(f"no clang-format of major version {MAJOR}")
    for path in source.files(top, "*.c", "*.h"):
        report.saw()
        done = subprocess.run([tool, "--dry-run", "-Werror", path], cwd=top, capture_output=True, text=True)
        if done.returncode != 0:
            first = re.search(r":(\d+):", done.stderr)
            report.bad(f"{path}:{first.group(1) if first else 1}", "not as clang-format has it: make format")
    report.finish("C files")


if __name__ == "__main__":
    sys.exit(main())
