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
else:
    from ckptctl.lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "bundle": "BundleReader BundleWriter read_state",
            "chain": "find_chains scan_directory",
            "inspect.diff": "diff",
            "inspect.export": "execute_export plan_export",
            "inspect.history": "history",
            "inspect.lookup": "look_up",
            "inspect.show": "show",
            "inspect.target": "find_target",
            "inspect.verify": "execute_verify plan_verify",
            "inspect.view": "open_view",
            "merge": "CompactOptions Gate Measures Policy PruneOptions execute_merge execute_prune "
            "plan_compact plan_merge plan_prune run_compact write_metrics",
            "restore": "RestoreOptions",
            "storage.lock": "directory_lock",
            "storage.unlock": "unlock_directory",
        },
    )

#: The one place that names it: reading it from the installed package costs 10 ms.
__version__ = "0.1.0.dev0"

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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
