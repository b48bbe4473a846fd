"""What the names and shapes of a bundle mean: tables, members, parts, sparse rows."""

from ckptctl.tables.catalogue import Catalogue, Table, TableMember, find_tables
from ckptctl.tables.names import BUCKETS, part_components
from ckptctl.tables.sets import EvSet, RowSet

__all__ = [
    "BUCKETS",
    "Catalogue",
    "EvSet",
    "RowSet",
    "Table",
    "TableMember",
    "find_tables",
    "part_components",
]
