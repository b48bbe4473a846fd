"""Every error that ckptctl raises on purpose.

::

    CkptctlError                    1   base; never raised itself
    |-- UsageError                  2   an option or argument that cannot be meant
    |   `-- DependencyError             an optional package is not installed
    |-- PartialFailure              3   finished, but some items failed or were skipped
    |   `-- TimeUpError                 stopped at --max-duration; nothing is half done
    |-- DamageError                 4   bytes that contradict themselves
    |   |-- FooterError                 an index too short for its footer
    |   |-- MagicError                  an index whose magic number is wrong
    |   |-- BlockChecksumError          an index block whose crc32c does not match
    |   |-- BlockFormatError            an index block that does not parse
    |   |-- CompressedBlockError        an index block compressed in a way we cannot read
    |   |-- KeyOrderError               index keys that are duplicate or not ascending
    |   |-- HeaderError                 a bundle header that is missing or makes no sense
    |   |-- EndiannessError             a bundle written on a big-endian machine
    |   |-- EntryError                  an index entry that does not parse or makes no sense
    |   |-- EntryBoundsError            an entry that lies outside its data shard
    |   |-- MissingShardError           a data shard that the header counts and nobody finds
    |   |-- ShapeSizeError              an entry whose shape does not fit its size
    |   |-- TensorChecksumError         tensor bytes whose crc32c does not match
    |   |-- StringTensorError           a string tensor whose lengths make no sense
    |   |-- StateFileError              a `checkpoint` state file that does not parse
    |   |-- IncompleteError             a checkpoint that no PS can restore
    |   |   `-- UnreadableError         its files cannot be read: no permission, a failing disk
    |   `-- TableError                  a table or row that no PS could have saved
    |-- DifferencesFound            5   `diff --exit-code` found some
    |-- NotFoundError              10   no such directory, chain, step, table or tensor
    |-- LockedError                11   another ckptctl holds the directory
    `-- RefusedError               12   refused for safety
        |-- AmbiguousError              two checkpoints, bases or names fit what was asked
        |-- UnprovenError               a check of the restore rules does not hold
        |-- NoSpaceError                the result would not fit on the disk
        |-- ChangedError                the directory changed under us
        `-- ExistsError                 the destination exists
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AmbiguousError",
    "BlockChecksumError",
    "BlockFormatError",
    "ChangedError",
    "CkptctlError",
    "CompressedBlockError",
    "DamageError",
    "DependencyError",
    "DifferencesFound",
    "EndiannessError",
    "EntryBoundsError",
    "EntryError",
    "ExistsError",
    "FooterError",
    "HeaderError",
    "IncompleteError",
    "KeyOrderError",
    "LockedError",
    "MagicError",
    "MissingShardError",
    "NoSpaceError",
    "NotFoundError",
    "PartialFailure",
    "RefusedError",
    "ShapeSizeError",
    "StateFileError",
    "StringTensorError",
    "TableError",
    "TensorChecksumError",
    "TimeUpError",
    "UnprovenError",
    "UnreadableError",
    "UsageError",
]


class CkptctlError(Exception):
    """Base of every error that ckptctl raises on purpose.

    Parameters
    ----------
    message
        One sentence that says what is wrong.
    file, tensor, offset, expected, found
        Where it is wrong: path, tensor name, byte offset in the file, and the
        two values that should have been equal. Those that are None are left out.
    remedy
        What the user can do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.tensor = tensor
        self.offset = offset
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes: tasks in other processes raise these too."""
        return (_rebuild, (type(self), self.__dict__.copy()))

    def details(self) -> dict[str, object]:
        """Return the error as one JSON object; absent facts are left out."""
        facts: dict[str, object] = {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "message": self.message,
        }
        for name in ("file", "tensor", "offset", "expected", "found", "remedy"):
            value = getattr(self, name)
            if value is not None:
                facts[name] = value if isinstance(value, (int, str)) else str(value)
        return facts

    @classmethod
    def from_text(cls, text: str) -> CkptctlError:
        """Return an error from its `str`, as a saved plan holds it; all values are words."""
        message, *lines = text.split("\n")
        error = cls(message)
        for line in lines:
            name, found, value = line.strip().partition(": ")
            name = "remedy" if name == "next" else name
            if found and name in ("file", "tensor", "offset", "expected", "found", "remedy"):
                is_number = name == "offset" and value.isdecimal()
                setattr(error, name, int(value) if is_number else value)
        return error

    def __str__(self) -> str:
        parts = [self.message]
        for name in ("file", "tensor", "offset", "expected", "found"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"  {name}: {value}")
        if self.remedy:
            parts.append(f"  next: {self.remedy}")
        # A stranger chose the names: a line break in one must not begin a line of ours.
        return "\n".join(part.replace("\n", "\\n") for part in parts)


def _rebuild(cls: type[CkptctlError], state: dict[str, object]) -> CkptctlError:
    error = cls(str(state["message"]))
    error.__dict__.update(state)
    return error


class UsageError(CkptctlError):
    """Raised for an option or argument that cannot be meant."""

    exit_code = 2


class DependencyError(UsageError):
    """Raised when an optional package that the request needs is not installed."""


class PartialFailure(CkptctlError):
    """Raised when the work was finished but some items failed or were skipped."""

    exit_code = 3


class TimeUpError(PartialFailure):
    """Raised when the time that was given is over; nothing is left half done."""


class DamageError(CkptctlError):
    """Raised for bytes that contradict themselves."""

    exit_code = 4


class FooterError(DamageError):
    """Raised for an index too short for its footer, or a footer that does not parse."""


class MagicError(DamageError):
    """Raised for an index whose magic number is wrong."""


class BlockChecksumError(DamageError):
    """Raised for an index block whose crc32c does not match."""


class BlockFormatError(DamageError):
    """Raised for an index block that does not parse."""


class CompressedBlockError(DamageError):
    """Raised for an index block compressed in a way we cannot read."""


class KeyOrderError(DamageError):
    """Raised for index keys that are duplicate or not ascending."""


class HeaderError(DamageError):
    """Raised for a bundle header that is missing or makes no sense."""


class EndiannessError(DamageError):
    """Raised for a bundle written on a big-endian machine."""


class EntryError(DamageError):
    """Raised for an index entry that does not parse or makes no sense."""


class EntryBoundsError(DamageError):
    """Raised for an entry that lies outside its data shard."""


class MissingShardError(DamageError):
    """Raised for a data shard that the header counts and nobody finds."""


class ShapeSizeError(DamageError):
    """Raised for an entry whose shape does not fit its size."""


class TensorChecksumError(DamageError):
    """Raised for tensor bytes whose crc32c does not match."""


class StringTensorError(DamageError):
    """Raised for a string tensor whose lengths make no sense."""


class StateFileError(DamageError):
    """Raised for a `checkpoint` state file that does not parse."""


class IncompleteError(DamageError):
    """Raised for a checkpoint that was asked for and that no PS can restore."""


class UnreadableError(IncompleteError):
    """Raised for a checkpoint whose files could not be read.

    A failing disk, or no permission: what they hold may be sound, and nothing is removed for it.
    """


class TableError(DamageError):
    """Raised for a table or row that no PS could have saved."""


class DifferencesFound(CkptctlError):
    """Raised by `diff --exit-code` when there are differences."""

    exit_code = 5


class NotFoundError(CkptctlError):
    """Raised when a directory, chain, step, table or tensor is not there."""

    exit_code = 10


class LockedError(CkptctlError):
    """Raised when another ckptctl holds the directory."""

    exit_code = 11


class RefusedError(CkptctlError):
    """Raised when doing what was asked might lose a model."""

    exit_code = 12


class AmbiguousError(RefusedError):
    """Raised when two checkpoints, bases or names fit what was asked."""


class UnprovenError(RefusedError):
    """Raised when a check of the restore rules does not hold."""


class NoSpaceError(RefusedError):
    """Raised when the result would not fit on the disk."""


class ChangedError(RefusedError):
    """Raised when the directory changed while we worked on it."""


class ExistsError(RefusedError):
    """Raised when the destination exists and may not be replaced."""
