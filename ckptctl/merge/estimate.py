"""How many bytes and how much memory a merge takes at most, before it is begun."""

from __future__ import annotations

import numpy as np

from ckptctl import knobs
from ckptctl.errors import RefusedError
from ckptctl.restore import State, Survey

__all__ = ["fit_memory", "most_keys", "most_rows"]

#: Bytes of the interpreter with NumPy, before any work (measured: 45 MB).
_BASE_MEMORY = 48 << 20
#: Bytes that one incoming key takes while a part is surveyed, all arrays together.
_KEY_MEMORY = 96


def most_rows(state: State) -> dict[tuple[int, int], Survey]:
    """Return surveys of the most rows that there can be: every incoming key is new."""
    none = np.empty(0, np.int64)
    found = {}
    for number, table in enumerate(state.tables):
        for part in range(table.num_parts):
            job = state.part_job(number, part)
            own = [member.parts[part] for member in job.table.members]
            new = [sum(item[1].rows for item in member.incoming) for member in job.table.members]
            found[number, part] = Survey(
                rows=tuple(ev.rows + more for ev, more in zip(own, new, strict=True)),
                filtered=tuple(ev.filtered for ev in own),
                new=tuple(new),
                replaced=tuple(0 for _ in own),
                skipped=0,
                misplaced=0,
                dropped=none,
                new_keys=0,
                unpaired=None,
            )
    return found


def most_keys(state: State) -> int:
    """Return the most incoming keys that one task holds: all members of one part."""
    most = [0]
    for number, table in enumerate(state.tables):
        for part in range(table.num_parts):
            job = state.part_job(number, part)
            most.append(
                sum(item[1].rows for member in job.table.members for item in member.incoming)
            )
    most += [sum(rows.rows for _, rows in plan.incoming) for plan in state.rows]
    return max(most)


def fit_memory(keys: int, jobs: int, limit: int | None) -> tuple[int | None, int]:
    """Return the tasks at a time that fit into `limit` bytes, and what they take."""
    each = 12 * knobs.PIECE_BYTES + keys * _KEY_MEMORY
    if limit is None:
        return None, _BASE_MEMORY + jobs * each
    fit = min(jobs, (limit - _BASE_MEMORY) // each)
    if fit < 1:
        raise RefusedError(
            "not enough memory for one part",
            expected=f">= {_BASE_MEMORY + each} bytes",
            found=f"--memory {limit}",
            remedy="give it more, or merge an earlier step with fewer keys",
        )
    return fit, _BASE_MEMORY + fit * each
