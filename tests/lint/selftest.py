#!/usr/bin/env python3
"""A check that finds nothing proves nothing: each check is run on a good tree, which it must accept, on the
same tree with one violation planted, which it must refuse, and on an empty tree, which it must refuse too."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
GUARDED = "#ifndef {0}\n#define {0}\n\n{1}\n\n#endif\n"
HEADER_STATUS = GUARDED.format("KVC_STATUS_H", "#define KVC_TABLE(X) X(OK, 0)\n\n"
                               "typedef enum {\n#define E(name, number) KVC_##name = number,\n"
                               "\tKVC_TABLE(E)\n#undef E\n} kvc_status;")
HEADER_CLIENT = GUARDED.format("KVCELLAR_H", '#include "kvc_status.h"\n\n'
                               "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\nkvc_status kvc_ping(void);\n\n"
                               "#ifdef __cplusplus\n}\n#endif")
SOURCE = "/* A file. */\n#include <stddef.h>\n\nint kvc_one(void)\n{\n\treturn 1;\n}\n"
MAKEFILE = "WARN := -Wall -Wvla \\\n        -Werror\n\n.PHONY: all demo\n\nall demo:\n\ttrue\n"

GOOD = {
    "Makefile": MAKEFILE,
    "README.md": "# x\n\n```sh\nmake demo\n```\n",
    "client/kvcellar.h": HEADER_CLIENT,
    "client/kvcellar_cuda.h": GUARDED.format("KVCELLAR_CUDA_H", '#include "kvcellar.h"'),
    "proto/kvc_status.h": HEADER_STATUS,
    "daemon/base/list.h": GUARDED.format("KVC_LIST_H", "struct kvc_list {\n\tint n;\n};"),
    "daemon/base/list.c": SOURCE,
    "daemon/loop/loop.c": '#include <uv.h>\n\n#include "daemon/base/list.h"\n',
    "tests/a.sh": "#!/bin/bash\necho hello\n",
    "tests/a.py": "print(1)\n",
    ".clang-format": (HERE.parents[1] / ".clang-format").read_text(),
}

# check: {what is planted: {file: content}}; None: the file is not there.
PLANTED = {
    "layers": {
        "a lower module includes a higher one": {"daemon/base/list.c": '#include "daemon/loop/loop.h"\n',
                                                 "daemon/loop/loop.h": "\n"},
        "the client includes the daemon": {"client/a.c": '#include "daemon/base/list.h"\n'},
        "kernels include the daemon, by a relative path": {"kernels/a.c": '#include "../daemon/base/list.h"\n'},
        "libuv outside of the loop": {"daemon/base/list.c": "#include <uv.h>\n"},
        "protobuf outside of rpc": {"daemon/loop/a.c": '#include "proto/kvcellar.pb-c.h"\n'},
        "CUDA in the daemon": {"daemon/loop/a.c": "#include <cuda_runtime.h>\n"},
        "a module that is not in the table": {"daemon/extra/a.c": "\n"},
    },
    "format": {"a line of spaces": {"daemon/base/list.c": SOURCE.replace("\treturn", "    return")}},
    "functions": {
        "71 lines": {"daemon/base/list.c": "int f(void)\n{\n" + "\tf();\n" * 68 + "}\n"},
        "a median over 15": {"daemon/base/list.c": "int f(void)\n{\n" + "\tf();\n" * 20 + "}\n"},
        "71 lines in a test": {"tests/a.c": "int f(void)\n{\n" + "\tf();\n" * 68 + "}\n"},
    },
    "files": {
        "a long header without a reason": {"daemon/base/list.h": "\n" * 301},
        "a very long header": {"daemon/base/list.h": "/* Long because. */\n" * 401},
        "a very long file": {"daemon/base/list.c": "/* Long because. */\n" * 1201},
        "a long file without a reason": {"daemon/base/list.c": "\n" * 801},
        "no newline at the end": {"daemon/base/list.c": "int a;"},
    },
    "words": {
        "work left undone": {"daemon/base/list.c": "/* TO" "DO: think */\n"},
        "alloca": {"daemon/base/list.c": "void f(int n)\n{\n\talloca(n);\n}\n"},
        "a folder of someone's machine": {"tests/a.sh": "ls /ho" "me/someone\n"},
        "variable length arrays not warned of": {"Makefile": MAKEFILE.replace("-Wvla", "")},
        "warnings that are no errors": {"Makefile": MAKEFILE.replace("-Werror", "")},
    },
    "headers": {
        "needs another header": {"daemon/base/list.h": GUARDED.format("A_H", "size_t f(void);")},
        "needs another header, in C++": {"daemon/base/list.h": GUARDED.format(
            "A_H", "template <typename T> T f(std::size_t);")},
        "no guard": {"daemon/base/list.h": "int f(void);\n"},
        "not C++": {"client/kvcellar.h": GUARDED.format("KVCELLAR_H", "int kvc_f(int class);")},
        "needs the project's folders": {"client/kvcellar.h": GUARDED.format("KVCELLAR_H",
                                                                            '#include "daemon/base/list.h"')},
        "the public header is gone": {"client/kvcellar.h": None},
    },
    "scripts": {
        "shell that does not parse": {"tests/a.sh": "if true; then\n"},
        "Python that does not compile": {"tests/a.py": "def\n"},
        "a shell script without suffix": {"tests/run": "#!/bin/sh\nfor\n"},
    },
    "readme": {
        "a target that is not there": {"README.md": "```sh\nmake dmeo\n```\n"},
        "a file that is not there": {"README.md": "`docs/no.md`\n```sh\nmake demo\n```\n"},
    },
    "symbols": {
        "a function too many": {"lib.c": "int kvc_ping(void) { return 0; }\nint kvc_more(void) { return 0; }\n"},
        "another prefix": {"lib.c": "int kvc_ping(void) { return 0; }\nint other(void) { return 0; }\n"},
        "a function that is missing": {"lib.c": "int kvc_pong(void) { return 0; }\n"},
        "CUDA linked": {"daemon.link": "-Wl,--no-as-needed -L. -lcuda"},
    },
}


def write(top, tree):
    for name, content in tree.items():
        path = top / name
        if content is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if content.startswith("#!"):
            path.chmod(0o755)


def build_symbols(top):
    """What check_symbols.py looks at: a library and a program."""
    compiler = os.environ.get("CC", "cc")
    (top / "build/lib").mkdir(parents=True)
    (top / "build/bin").mkdir()
    (top / "lib.map").write_text("libkvcellar_0 { global: *; };\n")
    (top / "main.c").write_text("int main(void) { return 0; }\n")
    (top / "none.c").write_text("int cuInit(unsigned flags) { return (int)flags; }\n")
    for command in ([compiler, "-shared", "-fPIC", "none.c", "-o", "libcuda.so"],
                    [compiler, "-shared", "-fPIC", "lib.c", "-Wl,--version-script,lib.map", "-o",
                     "build/lib/libkvcellar.so"],
                    [compiler, "main.c", "-o", "build/bin/kvcellard",
                     *(top / "daemon.link").read_text().split()]):
        subprocess.run(command, cwd=top, check=True)


def outcome(check, tree):
    """Exit status of the check on a tree, and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        write(top, tree)
        if check == "symbols" and tree:
            build_symbols(top)
        done = subprocess.run([sys.executable, HERE / f"check_{check}.py", top], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


def cases(check):
    """(what, tree, whether it must be accepted)"""
    good = dict(GOOD)
    if check == "symbols":
        good |= {"lib.c": "int kvc_ping(void) { return 0; }\n", "daemon.link": ""}
    yield "a good tree", good, True
    yield "an empty tree", {}, False
    for what, change in PLANTED[check].items():
        yield what, good | change, False


def judged_rightly(tree, accepted, status, said):
    """A check that falls over has judged nothing; on an empty tree it may."""
    if accepted:
        return status == 0
    return status not in (0, 77) and (not tree or "Traceback" not in said)


def main():
    wrong = ran = 0
    known = {path.name[len("check_"):-3] for path in HERE.glob("check_*.py")}
    for check in sorted(known - set(PLANTED)):
        print(f"{check}: no violation is planted for it")
        wrong += 1
    for check in sorted(known & set(PLANTED)):
        for what, tree, accepted in cases(check):
            status, said = outcome(check, tree)
            if status == 77:
                print(f"{check}: skipped: {said.strip()}")
                break
            ran += 1
            if not judged_rightly(tree, accepted, status, said):
                wrong += 1
                print(f"{check}: {what}: should be {'accepted' if accepted else 'refused'}, but:\n{said}")
    print(f"{ran} trees, {wrong} judged wrongly")
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    if not shutil.which(os.environ.get("CC", "cc")):
        print("no compiler")
        sys.exit(1)
    sys.exit(main())
