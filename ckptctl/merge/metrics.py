"""What compactions did, as metrics for Prometheus: a file for node_exporter to pick up.

Times are written as times, not as ages: ``time() - ckptctl_..._timestamp_seconds`` goes on
growing while nothing runs, whereas an age in a file would stand still just when cron is dead
(https://prometheus.io/docs/practices/instrumentation/#timestamps-not-time-since). The file
itself remembers what has to outlive a failed run, and the directories of other runs.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ckptctl.errors import CkptctlError, DependencyError, UsageError
from ckptctl.storage import LOCAL, FileInfo

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from ckptctl.merge.compact import CompactResult
    from ckptctl.merge.gate import Holdings

__all__ = ["Measures", "check_metrics", "write_metrics"]

_MAX_BYTES = 16 << 20
#: How long another ckptctl may take to write the same file, which takes it a millisecond.
_PATIENCE_S = 30.0
#: How long a directory that is gone may have been only away.
_MISSED_S = 30 * 86400.0


@dataclass(frozen=True)
class Measures:
    """What is measured of one run in one directory.

    Attributes
    ----------
    directory
        The checkpoint directory; its real path is the label `directory`.
    exit_code
        What the run would have exited with, had it been the only directory.
    ended_s
        When it ended, in seconds since 1970.
    seconds
        How long it took.
    bytes_written, bytes_freed
        By the merge, and by what went.
    holdings
        What the directory holds now; None where it cannot be read.
    """

    directory: str
    exit_code: int
    ended_s: float
    seconds: float
    bytes_written: int = 0
    bytes_freed: int = 0
    holdings: Holdings | None = None

    @classmethod
    def of(
        cls,
        directory: str,
        result: CompactResult | None,
        *,
        exit_code: int,
        ended_s: float,
        seconds: float,
    ) -> Measures:
        """Return what is measured of a compaction, and look at the directory if it failed.

        Parameters
        ----------
        directory
            The checkpoint directory.
        result
            What `run_compact` returned, or handed to `failed`; None where nothing was done.
        exit_code, ended_s, seconds
            As the attributes.
        """
        merge = result.merge if result is not None and result.merged else None
        prune = result.prune if result is not None else None
        return cls(
            directory,
            exit_code,
            ended_s,
            seconds,
            merge.bytes if merge is not None else 0,
            prune.bytes_freed if prune is not None else 0,
            result.holdings if result is not None else _held_now(directory),
        )


def _held_now(directory: str) -> Holdings | None:
    from ckptctl.chain import find_chains, scan_directory
    from ckptctl.merge.gate import look_at_holdings

    try:
        return look_at_holdings(find_chains(scan_directory(directory)))
    except (CkptctlError, OSError):  # what is wrong was said by the run
        return None


_Number: TypeAlias = "int | float | None"
#: Label `kind`, or "" for a metric without it, to how its value is found.
_Values: TypeAlias = Mapping[str, Callable[[Measures], _Number]]


@dataclass(frozen=True)
class _Gauge:
    name: str
    help: str
    values: _Values


def _one(value: Callable[[Measures], _Number]) -> _Values:
    return {"": value}


def _held(field: str) -> Callable[[Measures], _Number]:
    def value(measures: Measures) -> _Number:
        number: _Number = getattr(measures.holdings, field, None)
        return number

    return value


#: What failed runs leave as it was.
_SUCCESS = "ckptctl_compact_last_success_timestamp_seconds"

_GAUGES = (
    _Gauge(
        "ckptctl_compact_last_run_timestamp_seconds",
        "When the last run ended, in seconds since 1970.",
        _one(lambda found: found.ended_s),
    ),
    _Gauge(
        _SUCCESS,
        "When the last run with exit code 0 ended, in seconds since 1970; 0: none yet.",
        _one(lambda found: found.ended_s if found.exit_code == 0 else None),
    ),
    _Gauge(
        "ckptctl_compact_duration_seconds",
        "How long the last run took.",
        _one(lambda found: found.seconds),
    ),
    _Gauge(
        "ckptctl_compact_exit_code",
        "Exit code of the last run: 0 well, 4 damage, 11 locked, 12 refused for safety.",
        _one(lambda found: found.exit_code),
    ),
    _Gauge(
        "ckptctl_compact_written_bytes",
        "Bytes of the full that the last run wrote.",
        _one(lambda found: found.bytes_written),
    ),
    _Gauge(
        "ckptctl_compact_freed_bytes",
        "Bytes that the last run removed.",
        _one(lambda found: found.bytes_freed),
    ),
    _Gauge(
        "ckptctl_checkpoints",
        "Checkpoints in the directory, whatever their status.",
        {"full": _held("fulls"), "increment": _held("increments")},
    ),
    _Gauge(
        "ckptctl_checkpoint_bytes",
        "Bytes of the files of these checkpoints.",
        {"full": _held("full_bytes"), "increment": _held("increment_bytes")},
    ),
    _Gauge(
        "ckptctl_chain_increments",
        "Live increments above the newest live full: the length of the chain.",
        _one(_held("pending")),
    ),
    _Gauge(
        "ckptctl_passed_over",
        "Checkpoints newer than the newest restore point that cannot be restored.",
        _one(_held("passed_over")),
    ),
    _Gauge(
        "ckptctl_newest_restore_point_step",
        "The newest step that can be restored.",
        _one(_held("latest")),
    ),
    _Gauge(
        "ckptctl_newest_restore_point_timestamp_seconds",
        "When the newest restore point was saved, in seconds since 1970.",
        _one(_held("latest_time_s")),
    ),
)

#: Directory to (metric, kind) to value.
_Series: TypeAlias = "dict[str, dict[tuple[str, str], float]]"


def check_metrics(path: str) -> None:
    """Raise what would keep `write_metrics` from writing a file, before any work is done.

    Raises
    ------
    DependencyError
        prometheus_client is not installed.
    UsageError
        The file cannot be written, or there is one that holds no metrics of ckptctl.
    """
    try:
        import prometheus_client  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise DependencyError(
            f"metrics need prometheus_client: {error}", remedy="pip install 'ckptctl[metrics]'"
        ) from None
    if not path.endswith(".prom"):
        raise UsageError(
            f"metrics need the name of a file, not {path!r}",
            expected="a name that ends in .prom: node_exporter passes over others",
        )
    home = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(home) or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(
            "cannot write into the directory of the metrics file",
            file=home,
            remedy="make it, readable and writable for who runs ckptctl",
        )
    _read(os.path.realpath(path))


def write_metrics(path: str, measures: Sequence[Measures]) -> None:
    """Write what was measured into a file in Prometheus' text format.

    The file is replaced as a whole, and anyone may read it, whatever the umask: node_exporter
    is another user. Directories that it told of before stay in it, so that several runs can
    share a file: while they exist, and for 30 days after the last success of one that does not,
    since what is not mounted just now has to raise its alert.

    Parameters
    ----------
    path
        The file; where it is a symbolic link, what that points at.
    measures
        One a directory.

    Raises
    ------
    DependencyError, UsageError
        As for `check_metrics`.
    OSError
        The file cannot be written.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    path = os.path.realpath(path)
    with _alone(os.path.dirname(path)):
        before = _read(path)
        mine = {_label(each.directory): each for each in measures}
        others = ((key, old) for key, old in before.items() if key not in mine)
        series = {key: old for key, old in others if os.path.isdir(key) or _is_missed(old)}
        series |= {key: _series(each, before.get(key, {})) for key, each in mine.items()}
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(series))
        LOCAL.write_atomic(path, generate_latest(registry), like=_READABLE)


#: Not the umask of whoever runs cron: root's is often 077. Owner and group stay.
_READABLE = FileInfo("", 0, 0, 0, 0, stat.S_IFREG | 0o644, -1, -1, False, False)


def _is_missed(series: Mapping[tuple[str, str], float]) -> bool:
    return time.time() - series.get((_SUCCESS, ""), 0.0) < _MISSED_S


def _series(
    found: Measures, before: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    now: dict[tuple[str, str], float] = {}
    for gauge in _GAUGES:
        for kind, value in gauge.values.items():
            number = value(found)
            if number is not None:
                now[gauge.name, kind] = float(number)
    # From the first run on: a series that is not there raises no alert.
    now.setdefault((_SUCCESS, ""), before.get((_SUCCESS, ""), 0.0))
    return now


class _Collector:
    """Hands prometheus_client the numbers of this moment."""

    def __init__(self, series: _Series) -> None:
        self._series = series

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        from ckptctl import __version__

        build = GaugeMetricFamily(
            "ckptctl_build_info", "Version of ckptctl that wrote this.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        for gauge in _GAUGES:
            labels = ["directory"] if "" in gauge.values else ["directory", "kind"]
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=labels)
            for directory, numbers in sorted(self._series.items()):
                for kind in gauge.values:
                    number = numbers.get((gauge.name, kind))
                    if number is not None:
                        family.add_metric([directory, kind][: len(labels)], number)
            yield family


def _read(path: str) -> _Series:
    """Return what an earlier run wrote; raise `UsageError` for a file that is none of ours."""
    from prometheus_client.parser import text_string_to_metric_families

    if LOCAL.stat(path) is None:
        return {}
    found: _Series = {}
    try:
        text = LOCAL.read_small(path, _MAX_BYTES).decode("utf-8")
        for family in text_string_to_metric_families(text):
            if not family.name.startswith("ckptctl_"):
                raise ValueError(f"it holds {family.name}")
            for sample in family.samples:
                kind, directory = sample.labels.get("kind", ""), sample.labels.get("directory")
                if directory is not None:
                    found.setdefault(directory, {})[sample.name, kind] = float(sample.value)
    # The parser stumbles in many ways over what is no metrics at all.
    except (ValueError, LookupError, CkptctlError) as error:
        why = error.message if isinstance(error, CkptctlError) else str(error)
        raise UsageError(
            f"would replace a file that holds no metrics of ckptctl: {why}",
            file=path,
            remedy="name another file, or remove this one",
        ) from None
    return found


def _label(directory: str) -> str:
    """Return a directory as a label: its real path, in UTF-8 whatever its bytes are."""
    path = os.fsencode(os.path.realpath(directory))
    return path.decode("utf-8", "backslashreplace")


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Keep two runs from writing at once, each without the other's directories."""
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _PATIENCE_S
        while not _locked(fd) and time.monotonic() < until:
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here: then the last one wins
        return True
    return True
