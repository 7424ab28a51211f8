#!/usr/bin/env python3
"""The policies on the public Mooncake traces (TAP): test_traces.py [BIN].

KVC_TRACES names a folder with conversation_trace.jsonl and synthetic_trace.jsonl; without it the test is skipped. Figures
in PUBLISHED are of other implementations, replayed over the conversation trace.
"""
import json
import os
import subprocess
import sys

CAPACITIES = ("1%", "2%", "5%", "10%", "20%", "30%", "50%", "100%")
PUBLISHED = {  # policy: by how much it may differ, hit % by capacity
    "lru": (0.3, {"2%": 7.9, "5%": 19.5, "10%": 27.8, "20%": 34.5}),
    "arc": (1.0, {"2%": 9.2, "5%": 21.2, "10%": 28.4, "20%": 32.0}),
    "s3-fifo": (1.0, {"2%": 10.8, "5%": 19.1, "10%": 24.4, "20%": 30.7}),
}
DEFAULT = "chain-lru"

bins = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("KVC_BIN", "build/bin")
folder = os.environ.get("KVC_TRACES", "")
results = []


def check(good, name):
    results.append(good)
    print(f"{'ok' if good else 'not ok'} {len(results)} - {name}")


def replay(trace, *options):
    command = [bins + "/kvcellar", "replay", f"{folder}/{trace}_trace.jsonl", "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True)
    return json.loads(done.stdout)["replays"]


def hits(trace):
    """policy: capacity: hit %"""
    rows = replay(trace, "--capacity", ",".join(CAPACITIES))
    table = {}
    for number, row in enumerate(rows):
        policies = len(rows) // len(CAPACITIES)
        table.setdefault(row["policy"], {})[CAPACITIES[number // policies]] = row["hit_percent"]
    return table


def check_published(table):
    for policy, (tolerance, figures) in PUBLISHED.items():
        for capacity, figure in figures.items():
            got = table[policy][capacity]
            check(abs(got - figure) <= tolerance, f"{policy} at {capacity}: {got:.2f}, published {figure}")


def check_default(trace, table):
    for capacity in CAPACITIES:
        got, lru = table[DEFAULT][capacity], table["lru"][capacity]
        check(got >= lru, f"{trace}, {capacity}: {DEFAULT} {got:.2f}, lru {lru:.2f}")
    for capacity in ("5%", "10%", "20%"):
        got, best = table[DEFAULT][capacity], max(column[capacity] for column in table.values())
        check(got >= best - 2, f"{trace}, {capacity}: {DEFAULT} {got:.2f}, best of all {best:.2f}")


def check_admission():
    for ram in ("1%", "2%", "5%", "10%"):
        everything, third = replay("conversation", "--policy", DEFAULT, "--capacity", ram, "--disk", "50%",
                                   "--disk-budget", "all,33.33%")
        writes = third["disk_written_bytes"] / everything["disk_written_bytes"]
        kept = third["hit_percent"] / everything["hit_percent"]
        check(writes <= 0.34 and kept >= 2 / 3,
              f"{ram} of RAM, a third of the writes ({100 * writes:.1f} %) keeps {100 * kept:.1f} % of the hits")


def main():
    if not folder:
        print("1..0 # SKIP KVC_TRACES names no folder with the public traces")
        return 0
    conversation = hits("conversation")
    check_published(conversation)
    check_default("conversation", conversation)
    check_default("synthetic", hits("synthetic"))
    check_admission()
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
