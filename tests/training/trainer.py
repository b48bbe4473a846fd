"""A training process that shares its directory, for the tests of what works beside it.

Run as `python -m tests.training.trainer DIRECTORY VALUES OPTIONS`. It says on stdout what
happens, a line each, and does as many saves as a line on stdin asks for, as fast as it can;
then it holds still until the next line. What the model held at each save is in
`VALUES/<step>.npz` before the save is said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


# --- what runs in the process ---


def train(directory: str, room: str, options: dict[str, Any]) -> None:
    import numpy as np
    import tensorflow.compat.v1 as tf1

    import ckptctl.training as ct
    from tests.training.model import Model

    class Beat(tf1.train.CheckpointSaverListener):
        """Holds still after a save for which nobody has asked yet."""

        asked = 1  # a session saves once by itself when it begins

        def after_save(self, session: Any, step: int) -> bool:
            np.savez(f"{room}/{step}.npz", **model.values(session))
            print("saved", step, flush=True)
            self.asked -= 1
            if self.asked <= 0:
                print("held", step, flush=True)
                self.asked = int(sys.stdin.readline() or 0)
            return self.asked <= 0

    class EveryStep(ct.CheckpointSaverHook):
        """A hook whose increments are due at every step: no test waits for a clock."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(directory, incremental_save_secs=1, **kwargs)
            self._incremental_timer = tf1.train.SecondOrStepTimer(every_steps=1)

    model = Model(options.get("optimizer", "adagrad"))
    keep, every = options.get("max_to_keep", 4), options.get("save_steps", 5)
    random = np.random.default_rng(1)
    with model.graph.as_default():
        common: dict[str, Any] = {"save_steps": every, "listeners": [Beat()]}
        if options.get("stock"):
            scaffold = tf1.train.Scaffold(saver=tf1.train.Saver(sharded=True, max_to_keep=keep))
            hook = tf1.train.CheckpointSaverHook(directory, scaffold=scaffold, **common)
        else:
            saver = ct.Saver(sharded=True, max_to_keep=keep, incremental_save_restore=True)
            scaffold = ct.Scaffold(saver=saver, incremental_save_restore=True)
            hook = EveryStep(scaffold=scaffold, **common)
        with tf1.train.MonitoredTrainingSession(
            checkpoint_dir=directory,
            scaffold=scaffold,
            chief_only_hooks=[hook],
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            log_step_count_steps=None,
        ) as session:
            while not session.should_stop():
                session.run(model.train_op, {model.ids: random.integers(0, model.rows, 3)})


# --- what a test sees of it ---


class Trainer:
    """The process; it dies with the test."""

    def __init__(self, directory: Path, room: Path, **options: Any) -> None:
        self.directory, self.room = directory, room
        room.mkdir()
        #: The newest step that was saved.
        self.step = -1
        command = [sys.executable, "-m", "tests.training.trainer", str(directory), str(room)]
        with (room / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                [*command, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
            )

    def saves(self, count: int) -> None:
        """Let it save so many times; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()

    def held(self) -> int:
        """Return its step once it holds still."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(120, self._process.kill)  # one that hangs must not hang us
        watchdog.start()
        try:
            for line in self._process.stdout:
                word, step = line.split()
                self.step = int(step)
                if word == "held":
                    return self.step
        finally:
            watchdog.cancel()
        raise AssertionError(f"the training ended: {(self.room / 'stderr').read_text()[-3000:]}")

    def end(self) -> int:
        """Let it end by itself and return its exit code."""
        self.saves(0)
        self._process.communicate(timeout=60)
        return self._process.returncode

    def values(self, step: int) -> dict[str, Any]:
        """Return what the model held at a step."""
        import numpy as np

        with np.load(self.room / f"{step}.npz") as found:
            return dict(found)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
