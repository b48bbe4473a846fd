"""Parameter servers and workers as processes of their own, for the failover tests.

Run as `python -m tests.training.cluster ROLE TASK ADDRESSES DIRECTORY OPTIONS`; it says on
stdout what happens, a line each and when, so that a test waits for an event and not for a
time: all processes of a machine have one monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def say(word: str, number: int = 0) -> None:
    print(word, number, time.monotonic(), flush=True)


# --- what runs in the processes ---


def serve(role: str, task: int, addresses: dict[str, list[str]]) -> Any:
    import tensorflow.compat.v1 as tf1

    return tf1.train.Server(tf1.train.ClusterSpec(addresses), job_name=role, task_index=task)


def freeze(directory: Path, frozen: Path) -> None:
    """Copy the checkpoints from which was chosen; a server may still end what it began."""

    def copy(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, target)

    shutil.rmtree(frozen, ignore_errors=True)
    shutil.copytree(directory, frozen, ignore=shutil.ignore_patterns("*_temp"), copy_function=copy)


def work(task: int, addresses: dict[str, list[str]], directory: str, options: Any) -> None:
    import numpy as np
    import tensorflow as tf
    import tensorflow.compat.v1 as tf1
    from tensorflow.python.training import session_manager

    import ckptctl.training as ct
    from tests.training.model import values

    tf1.disable_eager_execution()
    server = serve("worker", task, addresses)
    waiting = session_manager.SessionManager.__init__

    def impatient(self: Any, *args: Any, **kwargs: Any) -> None:
        waiting(self, *args, **{"recovery_wait_secs": 1, **kwargs})

    session_manager.SessionManager.__init__ = impatient

    resume = ct.IncrementalSaver.resume

    def told(self: Any, session: Any, point: Any, open_gate: Any) -> None:
        name = f"{directory}.recovered-{point.step}.npz"
        np.savez(name, **values(session, tf1.get_default_graph()))
        freeze(Path(directory), Path(f"{directory}.frozen-{point.step}"))
        resume(self, session, point, open_gate)
        say("recovered", point.step)

    ct.IncrementalSaver.resume = told

    close = tf1.Session.close

    def closing(self: Any) -> None:
        say("closing")  # and then it waits for the parameter server to come back
        close(self)

    tf1.Session.close = closing

    class Told(tf1.train.CheckpointSaverListener):
        def before_save(self, session: Any, step: int) -> None:
            say("saving", step)

        def after_save(self, session: Any, step: int) -> None:
            say("saved", step)

    partitioner = tf1.fixed_size_partitioner(options.get("parts", 4))
    with tf1.device(tf1.train.replica_device_setter(cluster=tf1.train.ClusterSpec(addresses))):
        table = tf1.get_variable(
            "a",
            [options.get("rows", 3000), 4],
            partitioner=partitioner,
            initializer=tf1.random_uniform_initializer(),
        )
        dense = tf1.get_variable("b", [30, 4], partitioner=partitioner)
        ids = tf1.placeholder(tf.int64, [None], "ids")
        found = tf.nn.embedding_lookup(table, ids) * tf.reduce_mean(dense.as_tensor())
        step = tf1.train.get_or_create_global_step()
        loss = tf.reduce_sum(tf.square(found - 1))
        train = tf1.train.AdagradOptimizer(0.1).minimize(loss, step)

    scaffold = ct.Scaffold(
        saver=ct.Saver(
            sharded=True,
            save_relative_paths=True,  # the tests look at a copy of the directory
            incremental_save_restore=True,
            incremental_mode=options.get("mode", "cumulative"),
        ),
        incremental_save_restore=True,
    )
    filters = ["/job:ps", f"/job:worker/task:{task}"]
    hook = ct.CheckpointSaverHook(
        directory,
        save_secs=options["full_secs"],
        incremental_save_secs=options["increment_secs"],
        scaffold=scaffold,
        listeners=[Told()],
    )
    random, batch = np.random.default_rng(task), options.get("batch", 8)
    with tf1.train.MonitoredTrainingSession(
        server.target,
        task == 0,
        directory,
        scaffold=scaffold,
        chief_only_hooks=[hook],
        save_checkpoint_secs=None,
        save_summaries_steps=None,
        log_step_count_steps=None,
        config=tf1.ConfigProto(device_filters=filters),
    ) as session:
        while True:
            _, now = session.run([train, step], {ids: random.integers(0, table.shape[0], batch)})
            say("step", now)


# --- what a test sees of them ---


@dataclass
class Process:
    """A process of the cluster and what it says."""

    command: list[str]
    errors: Path
    process: subprocess.Popen[str] = field(init=False)
    #: When the last line was said that was read.
    heard: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def read(self, wanted: Callable[[str, int], bool], since: float = 0.0) -> int:
        """Read lines until one is wanted that was said since then; return its number."""
        assert self.process.stdout is not None
        # One that hangs must not hang the suite.
        watchdog = threading.Timer(300, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                word, number, when = line.split()
                self.heard = float(when)
                if self.heard > since and wanted(word, int(number)):
                    return int(number)
        finally:
            watchdog.cancel()
        raise AssertionError(f"the process ended: {self.errors.read_text()[-3000:]}")


class Cluster:
    """Two parameter servers and two workers on this machine."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        ports = [free_port() for _ in range(4)]
        local = [f"127.0.0.1:{port}" for port in ports]
        addresses = {"ps": local[:2], "worker": local[2:]}
        options = {"full_secs": 4, "increment_secs": 1, **options}

        def start(role: str, task: int) -> Process:
            command = [sys.executable, "-m", "tests.training.cluster", role, str(task)]
            command += [json.dumps(addresses), str(directory), json.dumps(options)]
            return Process(command, Path(f"{directory}.{role}-{task}.err"))

        self.servers = [start("ps", task) for task in range(2)]
        self.workers = [start("worker", task) for task in range(2)]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, *self.servers):
            process.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    role, task, addresses, directory, options = sys.argv[1:]
    if role == "ps":
        serve(role, int(task), json.loads(addresses)).join()
    else:
        work(int(task), json.loads(addresses), directory, json.loads(options))
