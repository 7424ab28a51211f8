#!/usr/bin/env python3
"""File length: a header of over 300 lines is two headers; a source file of over 1,200 lines is two, and one of
over 800 says why in its opening comment, on a line with `Long because`."""

import sys

import source

HEADER, REASON, SOURCE = 300, 800, 1200


def main():
    top, report = source.root(), source.Report()
    for path in source.files(top, "*.c", "*.h", "*.py", "*.sh"):
        content = source.text(top, path)
        length = content.count("\n")
        report.saw()
        if content and not content.endswith("\n"):
            report.bad(f"{path}:{length + 1}", "no newline at the end")
        if path.endswith(".h") and length > HEADER:
            report.bad(path, f"{length} lines, over {HEADER}")
        elif length > SOURCE:
            report.bad(path, f"{length} lines, over {SOURCE}")
        elif length > REASON and "Long because" not in content[:4000]:
            report.bad(path, f"{length} lines, over {REASON}, without a reason")
    report.finish("files")


if __name__ == "__main__":
    sys.exit(main())
