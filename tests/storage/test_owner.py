"""The dead and the living, told apart only where that can be known."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from ckptctl.storage.owner import Owner

HERE = Owner.of_this_process()


def other(process: subprocess.Popen[bytes], **facts: object) -> Owner:
    with open(f"/proc/{process.pid}/stat") as file:
        started = int(file.read().rpartition(")")[2].split()[19])
    return HERE._replace(pid=process.pid, **{"started": started, **facts})


@pytest.fixture
def sleeper():
    """A process that does nothing."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_the_living(sleeper) -> None:
    assert not HERE.is_gone()
    assert not other(sleeper).is_gone()
    sleeper.send_signal(signal.SIGSTOP)
    assert not other(sleeper).is_gone()


def test_the_dead_of_this_machine(sleeper) -> None:
    owner = other(sleeper)
    sleeper.kill()
    # Ended, and nobody has asked how: in a container there may be no one who does.
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_gone()
    sleeper.wait()
    assert owner.is_gone()


def test_a_number_that_is_used_again(sleeper) -> None:
    assert other(sleeper, started=1).is_gone()
    assert not other(sleeper, started=0).is_gone(), "it is not known when it started"


@pytest.mark.parametrize("fact", ["host", "boot", "namespaces"])
def test_what_ran_elsewhere_is_not_known_to_be_dead(sleeper, fact: str) -> None:
    owner = other(sleeper)
    sleeper.kill()
    sleeper.wait()
    assert owner.is_gone()
    for value in ("another", ""):
        assert not owner._replace(**{fact: value}).is_gone()


def test_a_note_reads_as_it_was_written() -> None:
    owner = Owner.of_this_process(30)
    assert Owner.parse(owner.note()) == owner
    assert (owner.host, owner.pid) == (os.uname().nodename, os.getpid())
    assert str(owner) == f"process {os.getpid()} on {os.uname().nodename}, since {owner.since}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"pid 7",
        b"[7]",
        b"[" * 4000,
        b'{"pid": "7"}',
        b'{"pid": true}',
        b'{"pid": 0}',
        b'{"pid": -1}',
        b'{"pid": 99999999999999999999}',
        b'{"host": "x"}',
        HERE.note()[:-5],
    ],
)
def test_what_is_no_note_is_nobody(data: bytes) -> None:
    assert Owner.parse(data) is None


def test_a_strangers_words_stay_words() -> None:
    """They are shown on terminals."""
    facts = {"pid": 7, "host": "a\x1b[2Jb\n\u202e", "since": ["x"], "boot": "y" * 9999}
    facts |= {"started": "z", "renew_s": float("1e300")}
    owner = Owner.parse(json.dumps(facts).encode())
    assert owner == Owner("a?[2Jb??", 7, "", "y" * 100)
    assert str(owner) == "process 7 on a?[2Jb??"
    assert str(Owner("", 7, "")) == "process 7 on an unknown host"
