"""Directories in memory, and a cache of the suite's own: proven pairs are remembered there."""

from tests.rooms import cache, module_path, tmp_path

__all__ = ["cache", "module_path", "tmp_path"]
