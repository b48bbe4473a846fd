"""What `verify` can find: the catalogue of codes, and one finding.

A code never changes its meaning and is never used again. `docs/findings.md` is made from
this catalogue (`python -m ckptctl.inspect.findings`); a test keeps it current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ckptctl import errors
from ckptctl.bundle.state_file import WRITE_ANEW

__all__ = ["CATALOGUE", "Finding", "Kind", "Severity", "error_of", "of_error", "render"]

Severity = Literal["damage", "warning", "note", "unread"]


class Kind(NamedTuple):
    """One kind of finding.

    Attributes
    ----------
    severity
        `damage` (exit 4), `warning` (0, with --strict 3), `note`, or `unread` (3).
    title
        What it is, in a few words.
    meaning
        What that means for a restore.
    remedy
        What to do.
    """

    code: str
    severity: Severity
    title: str
    meaning: str
    remedy: str


_RESTORE = "restore the file from a copy, or use another step"
_LOST = "use another step; `ckptctl ls` shows which can be restored"
_NOTHING = "nothing; `ckptctl prune` says what it would remove, and why"

CATALOGUE: dict[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind("CK001", "damage", "index cut short", "Nothing of it can be read.", _RESTORE),
        Kind("CK002", "damage", "no bundle index", "The magic number is another.", _RESTORE),
        Kind("CK003", "damage", "index block fails its checksum",
             "Names, shapes or offsets in it may be wrong.", _RESTORE),
        Kind("CK004", "damage", "index block does not parse",
             "Its checksum may match: what wrote it was wrong, or it is compressed.", _RESTORE),
        Kind("CK005", "damage", "index keys out of order or twice",
             "TensorFlow finds some tensors and not others.", _RESTORE),
        Kind("CK006", "damage", "bundle header makes no sense",
             "The number of shards or the byte order is unknown.", _RESTORE),
        Kind("CK007", "damage", "index entry makes no sense",
             "A tensor's dtype, shape, size or slices contradict each other.", _RESTORE),
        Kind("CK008", "damage", "data shard missing", "No PS can restore it.", _RESTORE),
        Kind("CK009", "damage", "data shard cut short",
             "Tensors at its end are lost; no PS can restore it.", _RESTORE),
        Kind("CK010", "damage", "tensors overlap in a data shard",
             "Two entries claim the same bytes: one of them was overwritten.", _RESTORE),
        Kind("CK011", "damage", "state file does not parse",
             "TensorFlow raises where the file is empty; where it is broken a trainer begins at "
             "step 0.",
             WRITE_ANEW),
        Kind("CK012", "damage", "tensors of a table do not fit each other",
             "A column has another length than the keys, or is missing; or parts differ in dim or "
             "type.",
             _RESTORE),
        Kind("CK013", "damage", "part of a table missing",
             "Its rows are lost; a PS refuses the checkpoint, or reads the rest as another table.",
             _RESTORE),
        Kind("CK014", "warning", "slices do not cover their variable",
             "A PS can restore the slices that are there, and no other: one was lost while it was "
             "saved, or the Saver was given some of the partitions.",
             "nothing, if the Saver was; else use another step"),
        Kind("CK015", "warning", "filtered keys of 32 bits",
             "DeepRec takes what belongs to filtered keys for as wide as the keys: nothing of the "
             "table is restored, it only logs `Data loss: Invalid size`.",
             "let the model have keys of 64 bits, or no filter on this table"),
        Kind("CK020", "warning", "no state file",
             "TensorFlow's latest_checkpoint finds nothing here, and a trainer that is started "
             "begins at step 0.",
             f"let a trainer that is running save once more; else {WRITE_ANEW.partition(';')[0]}"),
        Kind("CK021", "warning", "listed and gone",
             "A state file lists a checkpoint that is not here.",
             "if it was removed on purpose, nothing: the trainer rewrites the file; where "
             "model_checkpoint_path names it, edit that line"),
        Kind("CK022", "warning", "copied directory",
             "A state file leads into another directory: TensorFlow restores from there, and "
             "deletes there.",
             "`ckptctl merge --relocate` or `prune --relocate` makes paths relative; where what it "
             "names is not here, write that line by hand: model_checkpoint_path: \"NAME\""),
        Kind("CK023", "warning", "lineage leads nowhere",
             "The full or the increment that it was recorded on is not here.", _LOST),
        Kind("CK024", "warning", "increments are not nested",
             "Keys of an earlier increment are missing in a later one: a full or a recorder was "
             "lost in between, and so are rows.",
             "use a step below, or --increments last or all, knowing what they mean"),
        Kind("CK025", "note", "left over from a run that was rolled back",
             "It is not on the trainer's present timeline.",
             "nothing; `ckptctl prune --abandoned` removes it"),
        Kind("CK026", "warning", "idle increment",
             "Its recorder was not yet active: it holds no rows, or none of one PS.", _LOST),
        Kind("CK027", "warning", "base not proven",
             "The full that it was recorded on may have been rotated away; or it is here and "
             "cannot be used: then its own finding says what to do.",
             "--base STEP if you know which it was"),
        Kind("CK028", "warning", "increment without a full", "No full lies below it.",
             "nothing can restore it; `ckptctl prune --orphans` removes it"),
        Kind("CK029", "warning", "two checkpoints at one step",
             "Asking for the step is an error.", "move one of them out of the directory"),
        Kind("CK030", "warning", "name that DeepRec reads in two ways",
             "DeepRec takes the first `part_<n>` of a name for its part; here it is a scope.",
             "rename the scope in the model"),
        Kind("CK031", "note", "left behind by a killed writer", "It belongs to no checkpoint.",
             _NOTHING),
        Kind("CK032", "warning", "full under the name of another step",
             "It was merged, and renamed by hand.", "rename it to its step"),
        Kind("CK033", "warning", "0 rows of one PS",
             "Nothing proves that its recorder was idle, and nothing that it was not.",
             "compare with the trainer's log"),
        Kind("CK034", "note", "something else about the directory", "See the message.", _NOTHING),
        Kind("CK035", "note", "data shard of another save",
             "Its name tells another number of shards than the index: nothing reads it.",
             "remove it if no save is under way"),
        Kind("CK036", "warning", "moved directory",
             "A state file names a path where nothing is: TensorFlow's latest_checkpoint finds "
             "nothing, and a program that asks it begins anew; MonitoredTrainingSession ends with "
             "`The passed save_path is not a valid checkpoint`.",
             "`ckptctl merge --relocate` or `prune --relocate` makes paths relative"),
        Kind("CK037", "warning", "checkpoint in TensorFlow's V1 format",
             "It has no index. TensorFlow restores it; ckptctl reads V2 alone.",
             "restore it with TensorFlow and save it anew: V2 is the default"),
        Kind("CK050", "damage", "tensor fails its checksum",
             "Bytes were changed after they were written.", _RESTORE),
        Kind("CK051", "damage", "string tensor makes no sense",
             "Its lengths do not fit its bytes.", _RESTORE),
        Kind("CK052", "damage", "offsets do not bound the buckets",
             "A PS would read rows of other buckets, or beyond the end.", _RESTORE),
        Kind("CK053", "damage", "key twice in a member", "No PS saves that.", _RESTORE),
        Kind("CK054", "warning", "key outside its part or bucket",
             "A PS skips the row when it restores.", "save the table again from a PS that has it"),
        Kind("CK055", "damage", "key that no PS can save",
             "A negative key that is no multiple of 1000 belongs to no bucket.", _RESTORE),
        Kind("CK056", "warning", "key both admitted and filtered",
             "It owns a row and is counted as if it did not.",
             "`ckptctl merge` of a later increment that has the key removes it from the filtered"),
        Kind("CK057", "damage", "some parts keep a column and others do not",
             "Versions or freqs are there for some rows only.", _RESTORE),
        Kind("CK058", "warning", "filtered key seen as often as an admitted one",
             "The filter's threshold changed, or the columns do not belong together.",
             "compare with the filter of the model"),
        Kind("CK059", "warning", "slot keys differ from the primary's",
             "A PS restores garbage into the slots of keys that lack a row (DeepRec #1023).",
             "save while no worker trains, or use another step"),
        Kind("CK060", "warning", "NaN or infinity", "The model diverged, or bytes are wrong.",
             "find the first step that has them: `ckptctl show STEP --stats`"),
        Kind("CK061", "warning", "absurd magnitude",
             "Values beyond 1e30: often uninitialised rows (DeepRec #1023).",
             "`ckptctl get` shows the rows; use a step before they appeared"),
        Kind("CK062", "damage", "row number twice or negative",
             "An increment's rows of a variable that no PS can have saved.", _RESTORE),
        Kind("CK063", "warning", "row beyond its slice",
             "A PS skips the row when it restores.", "the variable was cut in another way: use "
             "increments of this model only"),
        Kind("CK090", "unread", "could not be read",
             "Permission, or it vanished while we looked.", "give permission, or run again"),
    )
}  # fmt: skip

_BY_ERROR: tuple[tuple[type[errors.CkptctlError], str], ...] = (
    (errors.FooterError, "CK001"),
    (errors.MagicError, "CK002"),
    (errors.BlockChecksumError, "CK003"),
    (errors.BlockFormatError, "CK004"),
    (errors.CompressedBlockError, "CK004"),
    (errors.KeyOrderError, "CK005"),
    (errors.HeaderError, "CK006"),
    (errors.EndiannessError, "CK006"),
    (errors.EntryError, "CK007"),
    (errors.ShapeSizeError, "CK007"),
    (errors.MissingShardError, "CK008"),
    (errors.EntryBoundsError, "CK009"),
    (errors.StateFileError, "CK011"),
    (errors.TensorChecksumError, "CK050"),
    (errors.StringTensorError, "CK051"),
    (errors.TableError, "CK012"),
    (errors.AmbiguousError, "CK030"),
    (errors.IncompleteError, "CK090"),  # of a scan: it may not be read, or is gone
)


class Finding(NamedTuple):
    """One finding; what is not known is None.

    `advice` is what to do where that is not what the catalogue says.
    """

    code: str
    message: str
    file: str
    tensor: str | None = None
    offset: int | None = None
    expected: str | None = None
    found: str | None = None
    advice: str | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CATALOGUE[self.code].severity

    @property
    def remedy(self) -> str:
        """What to do."""
        return self.advice or CATALOGUE[self.code].remedy

    @property
    def order(self) -> tuple[str, str, str, int, str, str]:
        """Where it stands in a list: no two findings stand at one place."""
        found = self.found or ""
        return (self.file, self.tensor or "", self.code, self.offset or 0, self.message, found)

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "code": self.code,
            "severity": self.severity,
            "file": self.file,
            "tensor": self.tensor,
            "offset": self.offset,
            "expected": self.expected,
            "found": self.found,
            "message": self.message,
            "remedy": self.remedy,
        }


def of_error(error: errors.CkptctlError | OSError, file: str, code: str | None = None) -> Finding:
    """Return the finding that an error is; `file` where it names none."""
    if isinstance(error, OSError):
        return Finding("CK090", error.strerror or str(error), str(error.filename or file))
    other = "CK007" if isinstance(error, errors.DamageError) else "CK090"
    known = next((own for kind, own in _BY_ERROR if isinstance(error, kind)), other)
    return Finding(
        code or known,
        error.message,
        error.file or file,
        error.tensor,
        error.offset,
        None if error.expected is None else str(error.expected),
        None if error.found is None else str(error.found),
    )


def error_of(
    kind: type[errors.CkptctlError], what: str, findings: Iterable[Finding], severity: Severity
) -> errors.CkptctlError:
    """Return an error that names the first finding of a severity, of which there is one."""
    first = next(each for each in findings if each.severity == severity)
    return kind(
        f"{what}, the first {first.code}: {first.message}",
        file=first.file,
        tensor=first.tensor,
        offset=first.offset,
        expected=first.expected,
        found=first.found,
        remedy=first.remedy,
    )


def render() -> str:
    """Return the catalogue as Markdown."""
    lines = [
        "# Findings of `ckptctl verify`",
        "",
        "<!-- Generated: python -m ckptctl.inspect.findings > docs/findings.md -->",
        "",
        "A code keeps its meaning for ever. `damage` makes the command exit with 4, `unread` with",
        "3, a `warning` with 0 (with `--strict` 3), a `note` with 0. CK024 and the codes from",
        "CK050 on take `--data`, which reads every byte; of CK059 and CK090 some are found without",
        "it. The others are found from names and indexes alone.",
        "",
    ]
    for kind in CATALOGUE.values():
        lines += [f"## {kind.code}: {kind.title}", "", f"*{kind.severity}*. {kind.meaning}", ""]
        lines += [f"What to do: {kind.remedy}.", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
