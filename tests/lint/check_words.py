#!/usr/bin/env python3
"""Words that must not be there: work left undone, stack memory of a size known at run time only, another
machine's folders."""

import re
import sys

import source

# Spelled so that this file does not match itself.
UNDONE = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
STACK = re.compile(r"\b(alloca|__builtin_alloca\w*)\s*\(")
PLACE = re.compile(r"(?<![\w.$}*])/(?:home|Users|root|work)/\w")


def check_line(where, line, report):
    if UNDONE.search(line):
        report.bad(where, "work left undone: " + line.strip())
    if PLACE.search(line):
        report.bad(where, "a folder of someone's machine: " + line.strip())


def main():
    top, report = source.root(), source.Report()
    for path in source.files(top, "*.c", "*.h", "*.py", "*.sh", "*.md", "*.proto", "*.mk", "*.in", "*.map",
                             "*.conf", "*.service", "Makefile", ".ci/*"):
        content = source.text(top, path)
        report.saw()
        for number, line in enumerate(content.splitlines(), 1):
            check_line(f"{path}:{number}", line, report)
        if path.endswith((".c", ".h")):
            for number, line in enumerate(source.without_comments(content).splitlines(), 1):
                if STACK.search(line):
                    report.bad(f"{path}:{number}", "alloca")
    if (top / "Makefile").is_file():
        flags = source.text(top, "Makefile")
        for flag in ("-Wvla", "-Werror"):
            if not re.search(rf"^WARN\b.*?{flag}\b", flags.replace("\\\n", " "), re.M):
                report.bad("Makefile", f"{flag} is not in WARN: variable length arrays are not found")
    report.finish("files")


if __name__ == "__main__":
    sys.exit(main())
