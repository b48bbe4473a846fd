"""`make demo`: stock TensorFlow trains, saves fulls and increments, and goes on from a merge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "monitored_session.py"


def say(text: str = "") -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


def ckptctl(*arguments: str) -> None:
    """Run a ckptctl command as a user would; a failure ends the demo."""
    say(f"$ ckptctl {' '.join(arguments)}")
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ckptctl", *arguments], check=False)
    say(f"({time.monotonic() - begin:.2f} s)\n")
    if done.returncode:
        sys.exit(f"ckptctl {arguments[0]} failed with exit code {done.returncode}")


def train(directory: Path, steps: int, *, die: bool = False) -> list[int]:
    """Train in a process of its own, killed by SIGKILL if asked; return the steps it said."""
    command = [sys.executable, str(EXAMPLE), "--dir", str(directory), "--steps", str(steps)]
    command += ["--pause", "0.05", "--full-secs", "4", "--increment-secs", "1"]
    said = []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            say(f"  {line.rstrip()}")
            said.append(int(line.split()[1]))
            if die:
                wait_for_increments(directory)
                process.kill()
                break
        code = process.wait()
        if code and not die:
            errors.seek(0)
            sys.exit(errors.read())
    return said


def wait_for_increments(directory: Path) -> None:
    """Wait until a second full and two increments on it lie there."""
    from ckptctl import find_chains, scan_directory

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (directory / "checkpoint").exists():
            chain = find_chains(scan_directory(str(directory))).chains[-1]
            if chain.base.step > 0 and len(chain.increments) > 1:
                return
        time.sleep(0.1)
    sys.exit("no increments after a minute")


def newest(directory: Path) -> int:
    from ckptctl import find_chains, scan_directory

    step = find_chains(scan_directory(str(directory))).latest
    assert step is not None
    return step


def main() -> None:
    """Run the demo in a temporary directory, or in the one given."""
    given = sys.argv[1] if len(sys.argv) > 1 else None
    directory = Path(given or tempfile.mkdtemp(prefix="ckptctl-demo-"))
    os.environ["CKPTCTL_DIR"] = str(directory)
    title("Stock TensorFlow trains, saves fulls and increments, and is killed")
    train(directory, 10_000, die=True)
    title("What is there")
    ckptctl("ls")
    title("What a merge would do")
    ckptctl("merge", "--dry-run")
    title("The merge")
    ckptctl("merge")
    merged = newest(directory)
    title("What is there now")
    ckptctl("ls", "--last", "2")
    title("Training goes on from the merged full")
    first = train(directory, 20)[0]
    if given is None:
        shutil.rmtree(directory)
    # The first step that is printed was computed from the restored global step.
    if first not in (merged, merged + 1):
        sys.exit(f"training went on at step {first}, not at {merged}")
    title(f"It went on at step {merged}.")


if __name__ == "__main__":
    main()
