"""The demonstration behind `make demo`: two workers hand a real model's KV cache to the daemon, RAM overflows to
disk, the daemon is killed and comes back, and every block is restored exactly as the codec defines it.

    demo.py BIN

Workers are processes that run `kvcellar put` and `get`; what must come back is computed by `kvcellar codec`, the
offline codec, in its scalar version, which is the definition. Each sequence is made of the cache in tests/data,
its tokens moved around so that no two sequences are the same. Exits 1 and says why if a byte differs. Leaves
nothing behind, also when interrupted.
"""

import concurrent.futures
import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

LAYERS, HEADS, DIM, SLICE_TOKENS = 8, 2, 128, 256
TOKEN_BYTES = HEADS * DIM * 2
TOKENS = 1000  # of a sequence: 7 blocks of 128 and one of 104
BLOCK = 128
SEQUENCES = 12  # of each worker
RAM = "16M"
SHAPE = ["--layers", str(LAYERS), "--heads", str(HEADS), "--dim", str(DIM), "--dtype", "bf16",
         "--tokens", str(TOKENS), "--block-tokens", str(BLOCK)]
# What the preset `quality` stands for.
CODING = {
    "keys": ["--bits", "4", "--group", "32", "--centre", "1", "--rotate", "1", "--gain", "1"],
    "values": ["--bits", "2", "--group", "64", "--centre", "1", "--rotate", "0", "--gain", "1"],
}
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """Something differs, or a program failed; the text is for people."""


def say(text):
    print(text, flush=True)


def mib(count):
    return f"{count / 2**20:.1f} MiB"


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def sequence_bytes(source, number):
    """A sequence of TOKENS tokens: in each layer the slice's tokens, begun somewhere else in every round."""
    layer_bytes = SLICE_TOKENS * TOKEN_BYTES
    parts = []
    for layer in range(LAYERS):
        tokens = source[layer * layer_bytes:(layer + 1) * layer_bytes]
        made = bytearray()
        round_number = 0
        while len(made) < TOKENS * TOKEN_BYTES:
            at = (number * 31 + round_number * 7 + 1) % SLICE_TOKENS * TOKEN_BYTES
            made += tokens[at:] + tokens[:at]
            round_number += 1
        parts.append(bytes(made[:TOKENS * TOKEN_BYTES]))
    return b"".join(parts)


def first_difference(left, right):
    for i, (a, b) in enumerate(zip(left, right)):
        if a != b:
            return i
    return min(len(left), len(right))


class Sequence:
    """One sequence of one worker, as files."""

    def __init__(self, folder, tenant, number):
        self.tenant = tenant
        self.name = f"conversation-{number}"
        self.number = number
        self.folder = folder
        self.sums = {}

    def path(self, what):
        return self.folder / f"{self.tenant}-{self.number}.{what}"

    def arguments(self):
        return ["--model", "demo-20m", "--tenant", self.tenant, *SHAPE, "--sequence", self.name]


class Demo:
    def __init__(self, programs, folder):
        self.programs = programs
        self.folder = folder
        self.socket = folder / "socket"
        self.daemon = None
        self.lock = threading.Lock()
        self.codec = {"keys": [], "values": []}
        self.tiers = {}
        self.seconds = {}
        self.bytes_in = self.bytes_stored = 0
        self.blocks = 0

    # ---- programs --------------------------------------------------------------------------

    def kvcellar(self, *arguments):
        command = [str(self.programs / "kvcellar"), *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(),
                              preexec_fn=die_with_parent)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}\nexit status {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def environment(self):
        return os.environ | {"KVCELLAR_SOCKET": str(self.socket)}

    def start(self):
        with open(self.folder / "daemon.log", "ab") as log:
            self.daemon = subprocess.Popen(
                [self.programs / "kvcellard", "--socket", self.socket, "--ram", RAM, "--disk",
                 self.folder / "disk", "--disk-size", "1G"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.kvcellar("ping")
                return
            except Failed as failure:
                if self.daemon.poll() is not None or time.monotonic() > end:
                    raise Failed(f"kvcellard did not start: {failure}\n{self.log_end()}") from failure
            time.sleep(0.02)

    def log_end(self):
        lines = (self.folder / "daemon.log").read_text(errors="replace").splitlines()
        return "\n".join(["the end of its log:", *lines[-15:]])

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        self.daemon.terminate()
        try:
            status = self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"kvcellard did not stop within {STOP_TIMEOUT_S} s\n{self.log_end()}") from error
        if status != 0:
            raise Failed(f"kvcellard stopped with status {status}\n{self.log_end()}")

    # ---- what must come back ---------------------------------------------------------------

    def make(self, sequence, slices):
        """Write the sequence, and let the offline codec say what it becomes."""
        for kind, source in slices.items():
            sequence.path(kind).write_bytes(sequence_bytes(source, sequence.number * 2 + (sequence.tenant == "beta")))
            report = self.kvcellar(
                "codec", "--in", sequence.path(kind), "--out", sequence.path("restored"), *SHAPE, *CODING[kind],
                "--simd", "scalar")
            sequence.sums[kind] = hashlib.sha256(sequence.path("restored").read_bytes()).hexdigest()
            sequence.path("restored").replace(sequence.path(kind + ".restored"))
            with self.lock:
                self.codec[kind].append(report)

    # ---- what workers do -------------------------------------------------------------------

    def put(self, sequence):
        report = self.kvcellar("put", *sequence.arguments(), "--keys", sequence.path("keys"), "--values",
                               sequence.path("values"), "--ack", "disk")
        with self.lock:
            self.bytes_in += report["bytes_in"]
            self.bytes_stored += report["bytes_stored"]
            self.blocks += report["blocks"]
        return report

    def get(self, sequence, phase):
        report = self.kvcellar("get", *sequence.arguments(), "--out-keys", sequence.path("keys.out"),
                               "--out-values", sequence.path("values.out"))
        for kind in CODING:
            self.compare(sequence, kind)
        with self.lock:
            tiers = self.tiers.setdefault(phase, {"ram": 0, "disk": 0})
            tiers["ram"] += report["from_ram"]
            tiers["disk"] += report["from_disk"]
        return report

    def compare(self, sequence, kind):
        restored = sequence.path(kind + ".out")
        data = restored.read_bytes()
        restored.unlink()
        if hashlib.sha256(data).hexdigest() == sequence.sums[kind]:
            return
        expected = sequence.path(kind + ".restored").read_bytes()
        at = first_difference(data, expected)
        raise Failed(f"{kind} of {sequence.tenant}/{sequence.name} are not what the codec's reference restores: "
                     f"{len(data)} bytes for {len(expected)}, the first difference at byte {at}")

    def both_workers(self, phase, work, workers):
        """Each worker goes through its sequences; both at the same time. The speed is that of the transfers
        themselves, as the programs measured it, with two at a time."""
        def run(sequences):
            return sum(work(sequence)["seconds"] for sequence in sequences)

        with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
            busy = list(pool.map(run, workers))
        self.seconds[phase] = max(busy)


def table(demo, codec):
    source = demo.bytes_in
    rows = [
        ("blocks", f"{demo.blocks} of up to {BLOCK} tokens, {LAYERS} layers, keys 4 bits, values 2"),
        ("bytes in", f"{source:,}"),
        ("bytes stored", f"{demo.bytes_stored:,}"),
        ("ratio", f"{source / demo.bytes_stored:.2f}"),
    ]
    for kind, short in (("keys", "K"), ("values", "V")):
        reports = demo.codec[kind]
        nmse = sum(report["nmse"] for report in reports) / len(reports)
        gain = sum(report["gain"] for report in reports) / len(reports)
        rows.append((f"{short}: NMSE, gain", f"{nmse:.6f}, {gain:.5f}"))
    rows.append(("put, on stable storage", f"{source / demo.seconds['put'] / 1e9:.2f} GB/s of source"))
    for phase, what in (("get", "get"), ("again", "get after kill -9")):
        tiers = demo.tiers[phase]
        rows.append((what, f"{source / demo.seconds[phase] / 1e9:.2f} GB/s of source; hits: RAM {tiers['ram']}, "
                           f"disk {tiers['disk']}"))
    rows.append(("restored after kill -9", "yes"))
    rows.append(("codec", codec))
    width = max(len(name) for name, _ in rows)
    line = "-" * (width + 58)
    return "\n".join([line, *(f"{name:<{width}}  {value}" for name, value in rows), line])


def check_overflow(demo):
    """Without this the demonstration would not show what it says."""
    stats = demo.kvcellar("stats")
    if demo.bytes_stored <= stats["ram.bytes"]:
        raise Failed("all blocks fit into RAM: nothing overflowed to disk")
    if demo.tiers["get"]["disk"] == 0 or demo.tiers["again"]["disk"] == 0:
        raise Failed("no block came from disk")
    return stats


def run(demo):
    slices = {kind: pathlib.Path(f"tests/data/{kind}.bf16").read_bytes() for kind in CODING}
    workers = [[Sequence(demo.folder, tenant, number) for number in range(SEQUENCES)]
               for tenant in ("alpha", "beta")]
    everything = [sequence for worker in workers for sequence in worker]
    say(f"1. {len(everything)} sequences of {TOKENS} tokens, made of a real model's KV cache; "
        "the codec's reference says what each becomes")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda sequence: demo.make(sequence, slices), everything))
    say(f"2. kvcellard with {RAM} of RAM and a disk tier; two workers put, answered when on stable storage")
    demo.start()
    demo.both_workers("put", demo.put, workers)
    say(f"   {demo.blocks} blocks, {mib(demo.bytes_in)} in, {mib(demo.bytes_stored)} stored")
    say("3. two workers get everything back, the newest first, and compare each byte")
    newest_first = [sequences[::-1] for sequences in workers]
    demo.both_workers("get", lambda sequence: demo.get(sequence, "get"), newest_first)
    say("4. kill -9, start again, get everything again")
    demo.kill()
    started = time.monotonic()
    demo.start()
    say(f"   ready again after {(time.monotonic() - started) * 1000:.0f} ms")
    demo.both_workers("again", lambda sequence: demo.get(sequence, "again"), workers)
    stats = check_overflow(demo)
    demo.stop()
    backend = "io_uring" if stats.get("io.uring") else "threads"
    direct = "page cache (the file system refuses O_DIRECT)" if stats.get("io.buffered_files") else "O_DIRECT"
    say(table(demo, f"every byte as the scalar reference says; disk by {backend}, {direct}"))


def interrupted(number, _):
    raise Failed(f"interrupted by {signal.Signals(number).name}")


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kvcellar-demo-"))
    demo = Demo(pathlib.Path(sys.argv[1]).resolve(), folder)
    try:
        run(demo)
    except Failed as failure:
        print(f"demo: FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        if demo.daemon and demo.daemon.poll() is None:
            demo.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
