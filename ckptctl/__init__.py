"""Lists, checks and merges the incremental checkpoints of DeepRec-style training.

The names below load on first use: `import ckptctl` costs no NumPy, so that a
command can answer before a library is loaded that it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptctl import errors

if TYPE_CHECKING:
    from ckptctl.bundle import BundleReader, BundleWriter, read_state
    from ckptctl.chain import find_chains, scan_directory
    from ckptctl.merge import (
        Policy,
        PruneOptions,
        execute_merge,
        execute_prune,
        plan_merge,
        plan_prune,
    )
    from ckptctl.restore import RestoreOptions

    __version__: str

__all__ = [
    "BundleReader",
    "BundleWriter",
    "Policy",
    "PruneOptions",
    "RestoreOptions",
    "__version__",
    "errors",
    "execute_merge",
    "execute_prune",
    "find_chains",
    "plan_merge",
    "plan_prune",
    "read_state",
    "scan_directory",
]

_ROOMS = {
    "BundleReader": "bundle",
    "BundleWriter": "bundle",
    "Policy": "merge",
    "PruneOptions": "merge",
    "RestoreOptions": "restore",
    "execute_merge": "merge",
    "execute_prune": "merge",
    "find_chains": "chain",
    "plan_merge": "merge",
    "plan_prune": "merge",
    "read_state": "bundle",
    "scan_directory": "chain",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        value: object
        try:
            value = version("ckptctl")
        except PackageNotFoundError:  # run from a checkout that nobody installed
            value = "0+unknown"
    elif name in _ROOMS:
        from importlib import import_module

        value = getattr(import_module(f"ckptctl.{_ROOMS[name]}"), name)
    else:
        raise AttributeError(f"module 'ckptctl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
