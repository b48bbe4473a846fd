"""`make demo`: a chain made by TensorFlow, listed and merged by ckptctl, then compared."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from demo.server import BUCKETS, Table

FULLS = (100, 200)
INCREMENTS = (120, 140, 160, 220, 240, 260)
KEYS_A_STEP = 200
KEY_SPACE = 60_000
# How far apart the saves of a real training would be; file times say so.
SECONDS_APART = 600


def say(text: str = "") -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what TensorFlow's C++ side says on stderr, unless something fails."""
    terminal = os.dup(2)
    with tempfile.TemporaryFile("w+") as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read().encode())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def ckptctl(*arguments: str) -> None:
    """Run a ckptctl command as a user would; a failure ends the demo."""
    say(f"$ ckptctl {' '.join(arguments)}")
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ckptctl", *arguments], check=False)
    say(f"({time.monotonic() - begin:.2f} s)\n")
    if done.returncode:
        sys.exit(f"ckptctl {arguments[0]} failed with exit code {done.returncode}")


def make_chain(directory: Path) -> tuple[dict[str, np.ndarray], list[Table], list[dict[int, int]]]:
    """Train and save; return the variables, the tables, and what the last full filtered."""
    from demo.trainer import Trainer, save_sharded, write_state

    trainer = Trainer()
    tables = [Table("item_emb", 16, 2, filter_freq=3), Table("user_emb", 8, 2)]
    random = np.random.default_rng(3)
    within = directory / ".incremental_checkpoint"
    within.mkdir()
    written: dict[Path, list[Path]] = {directory: [], within: []}
    filtered: list[dict[int, int]] = []
    step = 0
    saves = sorted(FULLS + INCREMENTS)
    for number, target in enumerate(saves):
        loss = trainer.train(target - step)
        for table in tables:
            # A power law: few keys come often, most come once.
            seen = random.zipf(1.15, (target - step) * KEYS_A_STEP) * 7919 % KEY_SPACE
            table.train(seen, random)
        step = target
        if step in FULLS:
            kind, prefix = "full", directory / f"model.ckpt-{step}"
            keys = sum(len(table.admitted()) for table in tables)
            shards = [_joined(table.full(part) for table in tables) for part in range(2)]
            for table in tables:
                table.recorded.clear()
            filtered = [table.filtered() for table in tables]
        else:
            kind, prefix = "increment", within / f"incremental_model.ckpt-{step}"
            keys = sum(len(table.recorded) for table in tables)
            shards = [_joined(table.increment(part) for table in tables) for part in range(2)]
        save_sharded(prefix, trainer, shards)
        written[prefix.parent].append(prefix)
        write_state(written[prefix.parent][-5:])
        set_back(prefix, SECONDS_APART * (len(saves) - number))
        say(f"  step {step}  {kind:<9}  {keys:>6,} keys  loss {loss:.3f}")
    return trainer.variables(), tables, filtered


def set_back(prefix: Path, seconds: int) -> None:
    """Let a checkpoint and its state file look older than they are."""
    when = time.time() - seconds
    for path in (*prefix.parent.glob(f"{prefix.name}.*"), prefix.parent / "checkpoint"):
        os.utime(path, (when, when))


def _joined(parts) -> dict[str, np.ndarray]:
    return {name: tensor for part in parts for name, tensor in part.items()}


def compare_table(
    table: Table, filtered_at_full: dict[int, int], tensors: dict[str, np.ndarray]
) -> list[str]:
    """Return one line a mismatch between a restored table and the parameter server."""
    wrong = []
    found: dict[str, dict[int, np.ndarray]] = {"": {}, "/Adagrad": {}}
    freqs: dict[int, int] = {}
    filtered: dict[int, int] = {}
    for part in range(table.parts):
        for member, rows in found.items():
            name = f"{table.name}/part_{part}{member}"
            keys, offset = tensors[f"{name}-keys"], tensors[f"{name}-partition_offset"]
            buckets = np.repeat(np.arange(BUCKETS), np.diff(offset))
            if not np.array_equal(keys % BUCKETS, buckets):
                wrong.append(f"{name}: rows are not grouped by bucket")
            rows.update(zip(keys.tolist(), tensors[f"{name}-values"], strict=True))
            if table.filter_freq:
                freqs.update(zip(keys.tolist(), tensors[f"{name}-freqs"].tolist(), strict=True))
            lists = (tensors[f"{name}-{column}_filtered"].tolist() for column in ("keys", "freqs"))
            filtered.update(zip(*lists, strict=True))
    admitted = table.admitted()
    for member, rows in found.items():
        if rows.keys() != admitted.keys():
            wrong.append(f"{table.name}{member}: {len(rows)} keys, not {len(admitted)}")
            continue
        for key, row in admitted.items():
            expected = row.slot if member else row.value
            if not np.array_equal(rows[key], expected):
                wrong.append(f"{table.name}{member}: row {key} differs")
    if table.filter_freq and freqs != {key: row.freq for key, row in admitted.items()}:
        wrong.append(f"{table.name}: frequencies differ")
    # An increment holds admitted keys only, so the others are as the full left them.
    if filtered != {k: n for k, n in filtered_at_full.items() if k not in admitted}:
        wrong.append(f"{table.name}: filtered keys differ")
    return wrong


def compare(
    tensors: dict[str, np.ndarray],
    variables: dict[str, np.ndarray],
    tables: list[Table],
    filtered: list[dict[int, int]],
) -> list[str]:
    """Print what agrees and return what does not."""
    wrong = []
    for name, expected in variables.items():
        if not np.array_equal(tensors[name], expected):
            wrong.append(f"{name} differs")
    rows = len(variables["wide/weights"])
    verdict = "DIFFER" if wrong else "all agree"
    say(f"  {len(variables)} variables of the session, one of {rows:,} rows in 3 slices: {verdict}")
    for table, filtered_at_full in zip(tables, filtered, strict=True):
        mismatches = compare_table(table, filtered_at_full, tensors)
        wrong += mismatches
        verdict = "DIFFER" if mismatches else "every row agrees"
        say(f"  {table.name}: {len(table.admitted()):,} rows and those of its slot: {verdict}")
    return wrong


def main() -> None:
    """Run the demo in a temporary directory, or in the one given."""
    given = sys.argv[1] if len(sys.argv) > 1 else None
    directory = Path(given or tempfile.mkdtemp(prefix="ckptctl-demo-"))
    directory.mkdir(exist_ok=True)
    os.environ["CKPTCTL_DIR"] = str(directory)
    title("A model in training: a session and two parameter servers save fulls and increments")
    with quiet():
        variables, tables, filtered = make_chain(directory)
    title("What is there")
    ckptctl("ls")
    title("What a merge would do")
    ckptctl("merge", "--dry-run")
    title("The merge")
    ckptctl("merge")
    title("What is there now")
    ckptctl("ls")
    title("Saver.restore of the merged full, against the parameter servers' memory")
    with quiet():
        from demo.trainer import restore_all

        tensors = restore_all(str(directory / f"model.ckpt-{INCREMENTS[-1]}"))
    wrong = compare(tensors, variables, tables, filtered)
    if given is None:
        shutil.rmtree(directory)
    if wrong:
        sys.exit("\n".join(["", *wrong[:20]]))
    title("Every row agrees.")


if __name__ == "__main__":
    main()
