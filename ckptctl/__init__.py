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
    from ckptctl.inspect.diff import diff
    from ckptctl.inspect.export import execute_export, plan_export
    from ckptctl.inspect.history import history
    from ckptctl.inspect.lookup import look_up
    from ckptctl.inspect.show import show
    from ckptctl.inspect.target import find_target
    from ckptctl.inspect.verify import execute_verify, plan_verify
    from ckptctl.inspect.view import open_view
    from ckptctl.merge import (
        CompactOptions,
        Gate,
        Measures,
        Policy,
        PruneOptions,
        execute_merge,
        execute_prune,
        plan_compact,
        plan_merge,
        plan_prune,
        run_compact,
        write_metrics,
    )
    from ckptctl.restore import RestoreOptions
    from ckptctl.storage.lock import directory_lock
    from ckptctl.storage.unlock import unlock_directory

    __version__: str

__all__ = [
    "BundleReader",
    "BundleWriter",
    "CompactOptions",
    "Gate",
    "Measures",
    "Policy",
    "PruneOptions",
    "RestoreOptions",
    "__version__",
    "diff",
    "directory_lock",
    "errors",
    "execute_export",
    "execute_merge",
    "execute_prune",
    "execute_verify",
    "find_chains",
    "find_target",
    "history",
    "look_up",
    "open_view",
    "plan_compact",
    "plan_export",
    "plan_merge",
    "plan_prune",
    "plan_verify",
    "read_state",
    "run_compact",
    "scan_directory",
    "show",
    "unlock_directory",
    "write_metrics",
]

_ROOMS = {
    "BundleReader": "bundle",
    "BundleWriter": "bundle",
    "CompactOptions": "merge",
    "Gate": "merge",
    "Measures": "merge",
    "Policy": "merge",
    "PruneOptions": "merge",
    "RestoreOptions": "restore",
    "diff": "inspect.diff",
    "directory_lock": "storage.lock",
    "execute_export": "inspect.export",
    "execute_merge": "merge",
    "execute_prune": "merge",
    "execute_verify": "inspect.verify",
    "find_chains": "chain",
    "find_target": "inspect.target",
    "history": "inspect.history",
    "look_up": "inspect.lookup",
    "open_view": "inspect.view",
    "plan_compact": "merge",
    "plan_export": "inspect.export",
    "plan_merge": "merge",
    "plan_prune": "merge",
    "plan_verify": "inspect.verify",
    "read_state": "bundle",
    "run_compact": "merge",
    "scan_directory": "chain",
    "show": "inspect.show",
    "unlock_directory": "storage.unlock",
    "write_metrics": "merge",
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
