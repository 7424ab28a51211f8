#!/usr/bin/env python3
"""What the README tells to type is there: each `make TARGET` is a target, each path of the tree exists."""

import re
import sys

import source


def blocks(markdown):
    """(first line number, lines) of each fenced block."""
    lines, start, block = markdown.splitlines(), None, []
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start is None:
                start, block = number + 1, []
            else:
                yield start, block
                start = None
        elif start is not None:
            block.append(line)


def main():
    top, report = source.root(), source.Report()
    makefiles = source.text(top, "Makefile")
    if (top / "deploy/install.mk").exists():  # the Makefile includes it
        makefiles += source.text(top, "deploy/install.mk")
    targets = set(re.findall(r"^([a-z][\w-]*(?: [a-z][\w-]*)*):(?!=)", makefiles, re.M))
    targets = {name for group in targets for name in group.split()}
    readme = source.text(top, "README.md")
    for start, block in blocks(readme):
        for number, line in enumerate(block, start):
            match = re.match(r"\s*(?:sudo )?make((?: [\w./=$~-]+)*)", line)
            if not match:
                continue
            for goal in (word for word in match.group(1).split() if "=" not in word):
                report.saw()
                if goal not in targets:
                    report.bad(f"README.md:{number}", f"make has no target {goal}")
    for number, line in enumerate(readme.splitlines(), 1):
        for path in re.findall(r"\]\(([^)#:]+)\)|`((?:tests|docs|daemon|client|kernels|proto|deploy)/[\w./-]*)`", line):
            name = path[0] or path[1]
            if not (top / name).exists():
                report.bad(f"README.md:{number}", f"{name} is not there")
    report.finish("make targets of the README")


if __name__ == "__main__":
    sys.exit(main())
