#!/usr/bin/env python3
"""Layer rules: which module includes which, by the table in layers.txt next to this file."""

import fnmatch
import os
import pathlib
import sys

import source

FREE = {"proto/kvc_status.h"}
TABLE = pathlib.Path(__file__).with_name("layers.txt")


def read_table():
    allowed, only = {}, {}
    for line in TABLE.read_text().splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        left, right = line.split(":", 1)
        if left.startswith("only "):
            only[left[5:].strip()] = set(right.split())
        else:
            allowed[left.strip()] = set(right.split())
    return allowed, only


def module_of(path, modules):
    """The innermost module of the table that the file lies in."""
    for parent in pathlib.PurePath(path).parents:
        if str(parent) in modules:
            return str(parent)
    return None


def resolve(top, includer, name):
    """The project's file that `#include "name"` means, as the Makefile's -I options have it."""
    for base in (pathlib.PurePath(includer).parent, ".", "proto", "client"):
        if (top / base / name).is_file():
            return os.path.normpath(pathlib.PurePath(base) / name)
    return name


def may(allowed, module, target):
    return "*" in allowed[module] or target == module or target in allowed[module]


def check_file(top, path, module, tables, report):
    allowed, only = tables
    for line, name, _ in source.includes(source.text(top, path)):
        target_path = resolve(top, path, name)
        for pattern, users in only.items():
            if fnmatch.fnmatch(target_path, pattern) and module not in users:
                report.bad(f"{path}:{line}", f"{name} may only be included by: "
                           f"{' '.join(sorted(users)) or 'nobody'}")
        target = module_of(target_path, allowed)
        if target and target_path not in FREE and not may(allowed, module, target):
            report.bad(f"{path}:{line}", f"{module} may not include {target} ({name})")


def main():
    top, report, tables = source.root(), source.Report(), read_table()
    found = set()
    for path in source.files(top, "daemon/*/*.[ch]", "kernels/*.[ch]", "proto/*.[ch]", "client/*.[ch]",
                             "client/*/*.[ch]"):
        module = module_of(path, tables[0])
        report.saw()
        if module is None:
            report.bad(path, "its folder is not in tests/lint/layers.txt")
            continue
        found.add(module)
        check_file(top, path, module, tables, report)
    print(f"{len(found)} modules")
    report.finish("source files of modules")


if __name__ == "__main__":
    sys.exit(main())
