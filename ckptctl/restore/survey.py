"""All parts of a state's tables surveyed side by side, and the increments' rows checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ckptctl.bundle import BundleData, Entry
from ckptctl.errors import UnprovenError
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.part import PartJob, Survey, survey_part
from ckptctl.restore.plans import TablePlan
from ckptctl.restore.state import State
from ckptctl.running import Report, Runner, batches, ignore

__all__ = ["CheckTask", "SurveyTask", "Surveyed", "judge", "survey_state"]

#: New keys of a table that may be dropped for want of a row in some member.
_TOLERATED = 0.01


class SurveyTask(NamedTuple):
    """Looks at the keys of one part."""

    job: PartJob
    validate: bool = True

    def run(self, report: Report = ignore) -> Survey:
        """Return what was seen; see `survey_part`."""
        return survey_part(self.job, report, validate=self.validate)

    @property
    def nbytes(self) -> int:
        """Bytes of the full that are read."""
        return sum(member.parts[self.job.part].keys.size for member in self.job.table.members)


class CheckTask(NamedTuple):
    """Checks tensors against their checksums, each read once, front to back."""

    data: BundleData
    tensors: tuple[tuple[str, Entry], ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(entry.size for _, entry in self.tensors)

    def run(self, report: Report = ignore) -> int:
        """Return the bytes that were checked; raise one of the `DamageError` family."""
        for name, entry in self.tensors:
            self.data.check_tensor(name, entry, report)
        return self.nbytes


class Surveyed:
    """What a look at the keys of tables told.

    Attributes
    ----------
    parts
        The survey of each (table, part).
    keys, keys_new, keys_replaced
        Keys of the primaries: of the state, and of the increments.
    warnings
        What a user should know.
    """

    def __init__(self, parts: dict[tuple[int, int], Survey]) -> None:
        self.parts = parts
        self.keys = 0
        self.keys_new = 0
        self.keys_replaced = 0
        self.warnings: list[str] = []


def survey_state(
    state: State,
    runner: Runner,
    options: RestoreOptions,
    tables: Collection[int] | None = None,
    *,
    validate: bool = True,
) -> Surveyed:
    """Survey the parts of the tables, and check what the increments bring.

    Parameters
    ----------
    tables
        Numbers of the tables to look at; None for all, and for normal variables.
    validate
        Whether to look for keys that stand twice or that no PS can save: what is written has
        to be right, and who only reads has `verify`.

    Raises
    ------
    TableError, TensorChecksumError
        Damage in keys, or in any tensor of an increment from which rows are taken.
    UnprovenError
        Too many new keys lack a row in some member (`restore.md`, rule 9).
    """
    chosen = {
        number: table
        for number, table in enumerate(state.tables)
        if tables is None or number in tables
    }
    tasks: list[tuple[tuple[int, int] | None, SurveyTask | CheckTask]] = [
        ((number, part), SurveyTask(state.part_job(number, part), validate))
        for number, table in chosen.items()
        for part in range(table.num_parts)
    ]
    tasks += [(None, task) for task in _check_tasks(state, list(chosen.values()), tables is None)]
    runner.progress.start("reading keys", sum(task.nbytes for _, task in tasks))
    results: Iterator[tuple[tuple[int, int] | None, Survey | int]] = runner.map(tasks)
    surveys = {label: result for label, result in results if label and isinstance(result, Survey)}
    surveyed = Surveyed(surveys)
    last = state.increments[-1].prefix if state.increments else None
    for number, table in chosen.items():
        own = [surveys[number, part] for part in range(table.num_parts)]
        judge(table.name, own, options, surveyed, last)
    return surveyed


def _check_tasks(state: State, tables: Sequence[TablePlan], variables: bool) -> Iterator[CheckTask]:
    """Rows are taken from increments out of order, so their tensors are checked apart."""
    chosen: dict[int, dict[str, Entry]] = {}
    for table in tables:
        for member in table.members:
            for number, ev, _, _ in member.incoming:
                for suffix, entry in ev.entries.items():
                    chosen.setdefault(number, {})[ev.name + suffix] = entry
    for plan in state.rows if variables else ():
        for number, rows in plan.incoming:
            name = f"{rows.name}-sparse_incr_values"
            chosen.setdefault(number, {})[name] = rows.values
    for number, tensors in chosen.items():
        for batch in batches(tensors.items(), lambda item: item[1].size):
            yield CheckTask(state.increments[number], batch)


def judge(
    table: str,
    surveys: list[Survey],
    options: RestoreOptions,
    outcome: Surveyed,
    last: str | None = None,
) -> None:
    """Count what the parts of a table have; refuse or warn as the restore rules say.

    `last` is the prefix of the last increment, if there is one.
    """
    outcome.keys += sum(survey.rows[0] for survey in surveys)
    outcome.keys_new += sum(survey.new[0] for survey in surveys)
    outcome.keys_replaced += sum(survey.replaced[0] for survey in surveys)
    skipped = sum(survey.skipped for survey in surveys)
    misplaced = sum(survey.misplaced for survey in surveys)
    carried = [survey.unpaired for survey in surveys if survey.unpaired is not None]
    new = sum(survey.new_keys for survey in surveys)
    dropped = sum(len(survey.dropped) for survey in surveys)
    if dropped > new * _TOLERATED and not options.drop_unpaired:
        first = next(survey.dropped for survey in surveys if len(survey.dropped))
        raise UnprovenError(
            "new keys without a row in every member: a PS would restore garbage into the slots",
            file=last,
            tensor=table,
            expected=f"at most {_TOLERATED:.0%} of {new} new keys",
            found=f"{dropped}, the first {first[0]}",
            remedy="use another step, or --drop-unpaired to leave these keys out",
        )
    if dropped:
        outcome.warnings.append(
            f"{table}: {dropped} of {new} new keys have no row in some member and were dropped"
        )
    if carried:
        outcome.warnings.append(
            f"{table}: key sets of the full's members differ in {len(carried)} of "
            f"{len(surveys)} parts ({', '.join(map(str, carried[0]))} rows in the first): "
            "carried over (DeepRec #1023)"
        )
    if skipped:
        outcome.warnings.append(
            f"{table}: {skipped} incoming rows outside their part or bucket were skipped"
        )
    if misplaced:
        outcome.warnings.append(
            f"{table}: {misplaced} rows of the full outside their part or bucket were skipped"
        )
