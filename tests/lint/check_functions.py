#!/usr/bin/env python3
"""Function length: at most 70 lines, signature and braces included; the median at most 15.

The layout is clang-format's (check_format.py), so a function body begins with `{` alone on a line and ends
with `}` alone on a line, and nothing else does.
"""

import statistics
import sys

import source

LONGEST = 70
MEDIAN = 15


def signature_start(lines, brace):
    """The first line of the declaration that ends above line `brace`."""
    start = brace
    while start > 0:
        line = lines[start - 1].strip()
        if not line or line.endswith((";", "}", "*/", "\\", ":")) or line.startswith(("#", "//", "extern \"C\"")):
            break
        start -= 1
    return start


def functions(text):
    """(first line, last line, signature) of each function, lines counted from 1."""
    lines = source.without_comments(text).splitlines()
    brace = None
    for number, line in enumerate(lines):
        if line.rstrip() == "{":
            brace = number
        elif line.rstrip() == "}" and brace is not None:
            start = signature_start(lines, brace)
            yield start + 1, number + 1, " ".join(part.strip() for part in lines[start:brace])
            brace = None


def main():
    top, report = source.root(), source.Report()
    lengths = {}
    for path in source.files(top, "*.c", "*.h"):
        for first, last, signature in functions(source.text(top, path)):
            length = last - first + 1
            part = path.split("/")[0]
            lengths.setdefault(part, []).append(length)
            report.saw()
            if length > LONGEST:
                report.bad(f"{path}:{first}", f"{length} lines, over {LONGEST}: {signature}")
    product = [n for part, list_of in lengths.items() if part != "tests" for n in list_of]
    for what, values in (*sorted(lengths.items()), ("without tests", product)):
        if values:
            print(f"{what}: {len(values)} functions, median {statistics.median(values):g}, "
                  f"90th percentile {sorted(values)[len(values) * 9 // 10]}, longest {max(values)}")
    if product and statistics.median(product) > MEDIAN:
        report.bad("all functions without tests", f"median over {MEDIAN} lines")
    report.finish("functions")


if __name__ == "__main__":
    sys.exit(main())
