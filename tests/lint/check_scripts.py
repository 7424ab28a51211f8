#!/usr/bin/env python3
"""Shell scripts parse (`bash -n`), and shellcheck has nothing to say where it is installed; Python compiles."""

import os
import shutil
import subprocess
import sys

import source


def is_shell(top, path):
    if path.endswith(".sh"):
        return True
    if not os.access(top / path, os.X_OK) or "." in os.path.basename(path):
        return False
    with open(top / path, "rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and first.strip().endswith((b"bash", b"sh"))


def check_shell(top, path, shellcheck, report):
    report.saw()
    commands = [["bash", "-n", path]]
    if shellcheck:
        commands.append([shellcheck, "-x", "-P", "SCRIPTDIR", "-S", "warning", path])
    for command in commands:
        done = subprocess.run(command, cwd=top, capture_output=True, text=True)
        if done.returncode != 0:
            report.bad(path, f"{os.path.basename(command[0])}:\n{done.stdout}{done.stderr}".rstrip())


def main():
    top, report = source.root(), source.Report()
    shellcheck = shutil.which("shellcheck")
    for path in source.files(top, "*"):
        if path.endswith(".py"):
            report.saw()
            try:
                compile(source.text(top, path), path, "exec")
            except SyntaxError as error:
                report.bad(f"{path}:{error.lineno}", error.msg)
        elif is_shell(top, path):
            check_shell(top, path, shellcheck, report)
    print("shellcheck: " + ("yes" if shellcheck else "not installed, skipped"))
    report.finish("scripts")


if __name__ == "__main__":
    sys.exit(main())
