"""What a view shows, and what an image of the oracle says that it must, as plain dicts."""

from __future__ import annotations

from typing import Any

from ckptctl.inspect.target import find_target
from ckptctl.inspect.view import View, open_view
from ckptctl.inspect.walk import walk, walk_filtered
from ckptctl.restore import RestoreOptions
from ckptctl.running import Runner
from tests.oracle.images import Image, Sliced

#: member name -> key -> (value bytes, freq, version)
Table = dict[int, tuple[bytes, int | None, int | None]]


def look(text: object, directory: object = ".", **options: Any) -> View:
    """Open a view of a target."""
    given = RestoreOptions(**options)
    target = find_target(str(text), str(directory), given)
    return open_view(target, given, Runner(1))


def tables_of(view: View) -> dict[str, Table]:
    """Every member's rows, all parts together."""
    found = {}
    for table in view.tables:
        for member in table.members:
            rows: Table = {}
            for step in walk(member, ("values", "freqs", "versions")):
                assert (step.keys[1:] > step.keys[:-1]).all()
                freqs = step.columns.get("freqs", [None] * len(step))
                versions = step.columns.get("versions", [None] * len(step))
                for at, key in enumerate(step.keys.tolist()):
                    assert key not in rows
                    freq, version = freqs[at], versions[at]
                    rows[key] = (
                        step.columns["values"][at].tobytes(),
                        None if freq is None else int(freq),
                        None if version is None else int(version),
                    )
            assert len(rows) == member.rows
            found[member.name] = rows
    return found


def filtered_of(view: View) -> dict[str, dict[int, int]]:
    """Every member's filtered keys and their freqs."""
    found: dict[str, dict[int, int]] = {}
    for table in view.tables:
        for member in table.members:
            own = found.setdefault(member.name, {})
            for part in member.parts:
                for step in walk_filtered(part):
                    own.update(zip(step.keys.tolist(), step.columns["freqs"].tolist(), strict=True))
            assert len(own) == member.filtered
    return found


def tables_in(image: Image) -> dict[str, Table]:
    """What an image says of the same."""
    found: dict[str, Table] = {}
    columns: dict[str, tuple[bool, bool]] = {}
    for ev in image.evs:
        freqs, versions = columns.get(ev.table, (False, False))
        kept = (freqs or (ev.freqs and bool(ev.rows)), versions or (ev.versions and bool(ev.rows)))
        columns[ev.table] = kept
    for ev in image.evs:
        freqs, versions = columns[ev.table]
        own = found.setdefault(ev.member, {})
        for row in ev.rows:
            freq, version = row.freq if freqs else None, row.version if versions else None
            own[row.key] = (row.value, freq, version)
    return found


def filtered_in(image: Image) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for ev in image.evs:
        own = found.setdefault(ev.member, {})
        own.update({item.key: item.freq for item in ev.filtered})
    return found


def assert_view(view: View, image: Image) -> None:
    """Fail unless a view shows what an image says."""
    assert tables_of(view) == tables_in(image)
    assert filtered_of(view) == filtered_in(image)
    shown = {tensor.name: tensor for tensor in view.tensors}
    for name, tensor in image.plain.items():
        own = shown.pop(name)
        assert own.dtype.name == tensor.dtype
        if own.dtype.name == "string":
            data = b"".join(own.strings())
            assert data == (b"".join(tensor.data) if isinstance(tensor.data, list) else tensor.data)
        else:
            data = b"".join(chunk.tobytes() for chunk in own.flat())
            if not isinstance(tensor, Sliced):
                assert data == tensor.data
    assert set(shown) <= set(image.hashes)
