"""What the names and shapes of a bundle mean: tables, members, parts, sparse rows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptctl.tables.catalogue import Catalogue, Table, TableMember, find_tables, join_slots
    from ckptctl.tables.names import BUCKETS, is_slot_name, part_components
    from ckptctl.tables.sets import EvSet, RowSet
else:
    from ckptctl.lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "catalogue": "Catalogue Table TableMember find_tables join_slots",
            "names": "BUCKETS is_slot_name part_components",
            "sets": "EvSet RowSet",
        },
    )

__all__ = [
    "BUCKETS",
    "Catalogue",
    "EvSet",
    "RowSet",
    "Table",
    "TableMember",
    "find_tables",
    "is_slot_name",
    "join_slots",
    "part_components",
]
