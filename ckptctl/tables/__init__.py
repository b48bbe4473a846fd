"""What the names and shapes of a bundle mean: tables, members, parts, sparse rows."""

from ckptctl.tables.catalogue import Catalogue, Table, TableMember, find_tables
from ckptctl.tables.names import BUCKETS, is_slot_name, part_components
from ckptctl.tables.sets import EvSet, RowSet

__all__ = [
    "BUCKETS",
    "Catalogue",
    "EvSet",
    "RowSet",
    "Table",
    "TableMember",
    "find_tables",
    "is_slot_name",
    "part_components",
]
