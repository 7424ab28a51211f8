#!/usr/bin/env python3
"""File length: a header of over 300 lines is two headers, a source file of over 800 lines is two files, or says
why not in its opening comment, on a line with `Long because`. Over 400 and 1,200 lines nothing helps."""

import sys

import source

HEADER = (300, 400)
SOURCE = (800, 1200)


def main():
    top, report = source.root(), source.Report()
    for path in source.files(top, "*.c", "*.h", "*.py", "*.sh"):
        content = source.text(top, path)
        length = content.count("\n")
        report.saw()
        if content and not content.endswith("\n"):
            report.bad(f"{path}:{length + 1}", "no newline at the end")
        reason, most = HEADER if path.endswith(".h") else SOURCE
        if length > most:
            report.bad(path, f"{length} lines, over {most}")
        elif length > reason and "Long because" not in content[:4000]:
            report.bad(path, f"{length} lines, over {reason}, without a reason")
    report.finish("files")


if __name__ == "__main__":
    sys.exit(main())
