#!/usr/bin/env python3
"""Writes tests/data/trace.jsonl: a made-up request trace, always the same.

Conversations that come back some minutes later with a longer prompt, over one of three system prompts, between
single requests that never come back.
"""
import json
import random

random.seed(20)
BLOCK = 512
next_id = 3 * 4
systems = [list(range(4 * i, 4 * i + 2 + i)) for i in range(3)]
requests = []


def blocks(count):
    global next_id
    first = next_id
    next_id += count
    return list(range(first, first + count))


def request(time, ids):
    length = BLOCK * len(ids) - random.randrange(BLOCK)
    requests.append({"timestamp": time, "input_length": length,
                     "output_length": random.randrange(1, 600), "hash_ids": ids})


for _ in range(160):
    time = random.randrange(3_000_000)
    chain = random.choice(systems) + blocks(random.randrange(1, 24))
    turns = random.choice((1, 1, 1, 2, 3, 6))
    for _ in range(turns):
        request(time, chain)
        chain = chain + blocks(random.randrange(1, 8))
        time += random.randrange(20_000, 400_000)
requests.sort(key=lambda item: item["timestamp"])
with open("tests/data/trace.jsonl", "w", encoding="ascii") as out:
    for item in requests:
        out.write(json.dumps(item, separators=(",", ":")) + "\n")
