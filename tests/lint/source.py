"""What the lint checks share: which files there are, what C looks like, how a check reports.

A check is a program: `check_NAME.py [ROOT]`. It prints each violation as `file:line: what`, then one line that
says what it looked at, and exits 1 if there was a violation or if it found nothing to look at, 77 if it could
not be done here (the last line says why), else 0.
"""

import pathlib
import re
import subprocess
import sys

SKIP = 77


def root():
    return pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def files(top, *patterns):
    """Tracked and new files of the tree (all files where there is no git) whose path matches a pattern."""
    if (top / ".git").exists():
        listing = subprocess.run(
            ["git", "-C", str(top), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            check=True, capture_output=True).stdout.decode()
        names = sorted(set(listing.split("\0")) - {""})
    else:
        names = sorted(str(p.relative_to(top)) for p in top.rglob("*"))
    paths = (pathlib.PurePath(name) for name in names)
    return [str(p) for p in paths
            if any(p.match(pattern) for pattern in patterns) and (top / p).is_file()]


def text(top, name):
    return (top / name).read_text(encoding="utf-8")


def without_comments(source):
    """C with comments and the insides of strings blanked out; lines stay where they are."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        token = match.group(0)
        if token[0] in "\"'":
            return token[0] + " " * (len(token) - 2) + token[0]
        return re.sub(r"[^\n]", " ", token)

    return pattern.sub(blank, source)


def includes(source):
    """(line number, name, is it in angle brackets) of each include."""
    for number, line in enumerate(source.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)', line)
        if match:
            yield number, match.group(1) or match.group(2), match.group(1) is None


def pkg_config(option, *packages):
    done = subprocess.run(["pkg-config", option, *packages], capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


class Report:
    """Violations, and how many things were looked at."""

    def __init__(self):
        self.violations = 0
        self.seen = 0

    def saw(self, count=1):
        self.seen += count

    def bad(self, place, what):
        self.violations += 1
        print(f"{place}: {what}")

    def finish(self, what):
        """what: the things that were looked at, for people, in the plural."""
        if self.seen == 0:
            print(f"nothing to check: there are no {what}")
            sys.exit(1)
        print(f"{self.seen} {what}, {self.violations} violations")
        sys.exit(1 if self.violations else 0)


def skip(why):
    print(why)
    sys.exit(SKIP)
