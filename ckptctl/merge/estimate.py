"""How many bytes and how much memory a merge takes at most, before it is begun."""

from __future__ import annotations

from collections.abc import Iterator

from ckptctl import knobs
from ckptctl.errors import RefusedError
from ckptctl.restore import PartJob, State, Survey
from ckptctl.restore.keys import most_together
from ckptctl.restore.unique import most_memory

__all__ = ["fit_memory", "most_rows"]

#: Bytes of the interpreter with NumPy, before any work (measured: 45 MB).
_BASE_MEMORY = 48 << 20
#: Bytes that an incoming key takes as long as the merge runs: two row numbers and a source.
_KEPT_MEMORY = 10
#: Pieces that a task holds that looks at keys, and one that writes: what that is, and what it read
#: for it.
_LOOKING, _WRITING = 12, 4
#: And the most of what the latter gathers of the rows of increments. Those are not more than there
#: are, with what numbers them: so many times their bytes, beside the `_KEY_MEMORY` of before that.
_GATHERED, _NUMBERED = 21, 3
#: Bytes that a task holds for each set of an increment: its offsets, counts and buckets.
_SOURCE_MEMORY = 48 << 10
#: Bytes that an incoming key takes while its bucket is looked at, all arrays together.
_KEY_MEMORY = 96
#: Bytes that an incoming key takes until its part was looked at, where the full has filtered keys
#: that it may admit.
_ADMITTED_MEMORY = 24


def most_rows(state: State) -> dict[tuple[int, int], Survey]:
    """Return surveys of the most rows that there can be: every incoming key is new."""
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
                new_keys=0,
                unpaired=None,
            )
    return found


def _jobs(state: State) -> Iterator[PartJob]:
    for number, table in enumerate(state.tables):
        yield from (state.part_job(number, part) for part in range(table.num_parts))


def _all_keys(state: State) -> int:
    """Return the most incoming keys that are held until the end.

    Members share theirs in a part where their keys are the same.
    """
    found = 0
    for number, table in enumerate(state.tables):
        jobs = (state.part_job(number, part) for part in range(table.num_parts))
        leads = {lead for job in jobs for lead in job.leads()}
        found += sum(item[1].rows for lead in leads for item in table.members[lead].incoming)
    return found


def _most_looked(state: State) -> int:
    """Return the most bytes that one task takes to look at keys.

    Of some buckets of a part, or of all of it where rows lie without one; and of all of one
    slice of a normal variable.
    """
    most = [_part_memory(job) for job in _jobs(state)]
    most += [_KEY_MEMORY * sum(rows.rows for _, rows in plan.incoming) for plan in state.rows]
    return max(most, default=0)


def _part_memory(job: PartJob) -> int:
    held, looking = 0, 0
    filtered = any(member.parts[job.part].filtered for member in job.table.members)
    for lead in set(job.leads()):
        rows = job.ev(lead).rows
        if rows > most_together():  # less is not worth a read
            more, at_the_end = most_memory(rows, job.offsets(lead))
            held, looking = held + more, max(looking, at_the_end)
        if filtered:
            brought = sum(item[1].rows for item in job.table.members[lead].incoming)
            held += brought * _ADMITTED_MEMORY
    return max(job.most_together() * _KEY_MEMORY + held, looking)


def _most_brought(state: State) -> int:
    """Return the bytes of the largest that increments bring to what one task works on."""
    found = [
        sum(entry.size for _, ev, *_ in member.incoming for entry in ev.entries.values())
        for job in _jobs(state)
        for member in job.table.members
    ]
    found += [sum(rows.values.size for _, rows in plan.incoming) for plan in state.rows]
    return max(found, default=0)


def _most_sources(state: State) -> int:
    """Return the most sets that bring rows to what one task works on."""
    found = [len(member.incoming) for job in _jobs(state) for member in job.table.members]
    return max([0, *found, *(len(plan.incoming) for plan in state.rows)])


def fit_memory(state: State, jobs: int, limit: int | None) -> tuple[int | None, int]:
    """Return the tasks at a time that fit into `limit` bytes, and what they take."""
    base = _BASE_MEMORY + _all_keys(state) * _KEPT_MEMORY
    sources = _most_sources(state)
    gathered = min(_GATHERED * knobs.PIECE_BYTES, _NUMBERED * _most_brought(state))
    each = max(_LOOKING * knobs.PIECE_BYTES, _WRITING * knobs.PIECE_BYTES + gathered)
    each += _most_looked(state) + sources * _SOURCE_MEMORY
    if limit is None:
        return None, base + jobs * each
    fit = min(jobs, (limit - base) // each)
    if fit < 1:
        raise RefusedError(
            "not enough memory for one part",
            expected=f">= {base + each} bytes",
            found=f"--memory {limit}",
            remedy="give it more, or merge an earlier step with fewer keys",
        )
    return fit, base + fit * each
