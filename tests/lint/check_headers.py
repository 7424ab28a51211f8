#!/usr/bin/env python3
"""Every header compiles alone: the public ones in C11 and in C++, with nothing but their own folder to look
into; the internal ones in C11 with the build's flags. None of them includes what it does not carry along."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import source

PUBLIC = ("client/kvcellar.h", "client/kvcellar_cuda.h", "proto/kvc_status.h")
PACKAGES = ("libuv", "liburing", "libprotobuf-c", "libxxhash", "libsodium", "libcrypto", "inih", "libsystemd", "cmocka",
            "jansson", "smartcols")
SIMD = {"avx2": ["-mavx2", "-mf16c", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi", "-mf16c", "-mfma"]}
# cmocka.h leaves these to whoever includes it.
CMOCKA = "".join(f"#include <{name}.h>\n" for name in ("setjmp", "stdarg", "stddef", "stdint"))


def compile_alone(command, code, top):
    done = subprocess.run([*command, "-fsyntax-only", "-"], input=code, cwd=top, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode != 0 else None


def check_public(top, path, report):
    """As an installed header: the public headers lie in one folder."""
    with tempfile.TemporaryDirectory() as folder:
        for name in PUBLIC:
            if (top / name).is_file():
                (pathlib.Path(folder) / os.path.basename(name)).symlink_to(top / name)
        code = f"#include <{os.path.basename(path)}>\n"
        strict = ["-I", folder, "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
        for compiler, language in ((os.environ.get("CC", "cc"), ["-x", "c", "-std=c11"]),
                                   (os.environ.get("CXX", "c++"), ["-x", "c++", "-std=c++11"])):
            report.saw()
            error = compile_alone([compiler, *language, *strict], code, top)
            if error:
                report.bad(path, f"does not compile alone ({language[1]}):\n{error}")


def check_internal(top, path, flags, report):
    extra = next((option for level, option in SIMD.items() if level in os.path.basename(path)), [])
    prefix = CMOCKA if "<cmocka.h>" in source.text(top, path) else ""
    report.saw()
    language = ["-x", "c", "-std=c11"]
    if re.search(r"^(template|namespace)\b", source.text(top, path), re.M):
        language = ["-x", "c++", "-std=c++17"]
    error = compile_alone([os.environ.get("CC", "cc"), *language, *flags, *extra],
                          f'{prefix}#include "{path}"\n', top)
    if error:
        report.bad(path, f"does not compile alone:\n{error}")


def main():
    top, report = source.root(), source.Report()
    flags = ["-D_GNU_SOURCE", '-DKVCELLAR_VERSION="0"', "-I.", "-Iproto", "-Iclient", "-Ibuild/gen",
             "-Wall", "-Wextra", "-Wno-unused-function", "-Werror", *source.pkg_config("--cflags", *PACKAGES)]
    headers = source.files(top, "*.h")
    for path in PUBLIC:
        if path not in headers:
            report.bad(path, "is not there")
    for path in headers:
        if path in PUBLIC:
            check_public(top, path, report)
        check_internal(top, path, flags, report)
        content = source.without_comments(source.text(top, path))
        if not re.search(r"^#ifndef (\w+)\n#define \1\b", content, re.M):
            report.bad(path, "has no include guard")
    report.finish("compilations of headers")


if __name__ == "__main__":
    sys.exit(main())
