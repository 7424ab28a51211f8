#!/usr/bin/env python3
"""The library exports what its headers declare: every name begins with kvc_, none is missing, none is more.
And the daemon links nothing of CUDA."""

import re
import subprocess
import sys

import source

HEADERS = ("client/kvcellar.h", "client/kvcellar_cuda.h", "proto/kvc_status.h")
LIBRARY = "build/lib/libkvcellar.so"
DAEMON = "build/bin/kvcellard"


def declared(top):
    names = set()
    for path in HEADERS:
        content = source.without_comments(source.text(top, path))
        content = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", content, flags=re.M)
        for statement in re.split(r"[;{}]", content):
            match = re.search(r"\b(\w+)\s*\(", statement)
            # Capitals are macros: X-macro tables look like calls.
            if match and "typedef" not in statement and not match.group(1).isupper():
                names.add(match.group(1))
    return names


def exported(top):
    done = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], cwd=top, check=True, capture_output=True,
                          text=True)
    # Type A: the version nodes of the symbol map.
    symbols = (line.split() for line in done.stdout.splitlines())
    return {fields[-1].split("@")[0] for fields in symbols if fields[-2] != "A"}


def needed(top):
    done = subprocess.run(["readelf", "-d", DAEMON], cwd=top, check=True, capture_output=True, text=True)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)


def main():
    top, report = source.root(), source.Report()
    promised = declared(top)
    given = exported(top)
    report.saw(min(len(promised), len(given)))
    for name in sorted(given):
        if not name.startswith("kvc_"):
            report.bad(LIBRARY, f"exports {name}, which does not begin with kvc_")
    for name in sorted(given - promised):
        report.bad(LIBRARY, f"exports {name}, which no public header declares")
    for name in sorted(promised - given):
        report.bad(LIBRARY, f"does not export {name}, which a public header declares")
    libraries = needed(top)
    if not libraries:
        report.bad(DAEMON, "links nothing at all: not the program that was meant")
    for library in libraries:
        if re.match(r"lib(cuda|nv)", library):
            report.bad(DAEMON, f"links {library}")
    report.finish("exported functions")


if __name__ == "__main__":
    sys.exit(main())
