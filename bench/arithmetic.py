"""What follows from the measured constants for sizes that no machine here has."""

from __future__ import annotations

from dataclasses import dataclass

from bench.goals import number
from bench.results import Document
from bench.scale_page import measured

__all__ = ["SETTINGS", "Constants", "Setting", "arithmetic", "constants", "constants_of", "hours"]


@dataclass(frozen=True)
class Constants:
    """What was measured: seconds of CPU a GB of the full, and seconds of one start."""

    cpu_s_per_gb: float
    start_s: float
    peak_mb: float


@dataclass(frozen=True)
class Setting:
    """Disks and machines that are assumed: GB/s that a machine, and that all together move.

    `shared` is what the store gives to all machines together; None where each has its own.
    """

    name: str
    read: float
    write: float
    cores: int
    machines: int = 1
    shared: float | None = None


SETTINGS = (
    Setting("one machine, one NVMe disk: 3 GB/s read, 1.5 written, 8 cores", 3.0, 1.5, 8),
    Setting("one machine, 4 NVMe disks: 12 and 6 GB/s, 16 cores", 12.0, 6.0, 16),
    Setting("one machine, network disk of 1 GB/s each way, 8 cores", 1.0, 1.0, 8),
    Setting("one machine, network disk of 250 MB/s each way, 8 cores", 0.25, 0.25, 8),
    Setting("8 machines at 10 Gbit/s, a store that gives them all, 8 cores each", 1.2, 1.2, 8, 8),
    Setting(
        "32 machines at 10 Gbit/s, a store of 20 GB/s in all, 8 cores each", 1.2, 1.2, 8, 32, 20.0
    ),
)
SIZES = {"1 TB": 1000.0, "10 TB": 10000.0}
#: The increment, as a share of the full.
INCREMENT = 0.05


def constants_of(document: Document) -> Constants | None:
    """Return the constants from the two largest fulls of `bench.scale`, or None without them."""
    even = [
        each
        for each in measured(document)
        if each["dimension"] == "size" and each["curve"] == "even" and "skipped" not in each
    ]
    if len(even) < 2:
        return None
    small, large = sorted(even, key=lambda each: float(each["at"]))[-2:]

    def cpu(each: dict[str, list[float]]) -> float:
        return sorted(each["cpu_s"])[len(each["cpu_s"]) // 2]

    rate = (cpu(large) - cpu(small)) / (large["at"] - small["at"])
    start = max(0.0, cpu(small) - rate * small["at"])
    return Constants(rate, start, large["peak_mb"])


def hours(own: Constants, setting: Setting, gb: float, verify: bool) -> tuple[float, str]:
    """Return how long a merge takes, and what it waits for: reading, writing or the cores.

    The full and the increment are read, the result is written, and read again where it is
    verified; on separate ways in and out, so that the slower of the two counts. What all
    machines do together the store has to give.
    """
    read = gb * (1 + INCREMENT) + (gb if verify else 0.0)
    each = {
        "reading": read / setting.read / setting.machines,
        "writing": gb / setting.write / setting.machines,
        "cores": gb * own.cpu_s_per_gb / setting.cores / setting.machines,
    }
    if setting.shared is not None:
        each["store"] = (read + gb) / setting.shared
    longest = max(each, key=lambda name: each[name])
    return (each[longest] + own.start_s) / 3600, longest


def constants(document: Document) -> str:
    """Return the constants that the arithmetic uses."""
    own = constants_of(document)
    if own is None:
        return "Not measured yet: `make bench-scale`."
    rate = f"{number(own.cpu_s_per_gb)} s of CPU a GB of the full, verification included"
    lines = [
        f"* {rate}: the step between the two largest fulls",
        f"* {number(own.start_s)} s that every run takes, whatever the size",
        f"* {own.peak_mb:.0f} MB of memory at the largest full",
    ]
    return "\n".join(lines)


def arithmetic(document: Document) -> str:
    """Return a row for each setting and size."""
    own = constants_of(document)
    if own is None:
        return ""
    lines = ["| | full | `--no-verify` | verified | waits for |"]
    lines.append("| --- | --- | ---: | ---: | --- |")
    for setting in SETTINGS:
        for name, gb in SIZES.items():
            fast, _ = hours(own, setting, gb, False)
            took, longest = hours(own, setting, gb, True)
            lines.append(f"| {setting.name} | {name} | {spell(fast)} | {spell(took)} | {longest} |")
    return "\n".join(lines)


def spell(hours: float) -> str:
    """Return a time in the unit that it deserves."""
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
