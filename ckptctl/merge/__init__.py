"""A state written as a new full, and what is then no longer needed: plan, tasks, commit."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptctl.merge.compact import CompactResult, run_compact
    from ckptctl.merge.compact_plan import CompactOptions, CompactPlan, plan_compact
    from ckptctl.merge.execute import MergeResult, execute_merge
    from ckptctl.merge.gate import Gate, Holdings
    from ckptctl.merge.metrics import Measures, write_metrics
    from ckptctl.merge.plan import MergePlan, plan_merge
    from ckptctl.merge.policy import Policy
    from ckptctl.merge.prune import PruneResult, execute_prune, plan_prune
    from ckptctl.merge.prune_plan import PruneOptions, PrunePlan
else:
    from ckptctl.lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "compact": "CompactResult run_compact",
            "compact_plan": "CompactOptions CompactPlan plan_compact",
            "execute": "MergeResult execute_merge",
            "gate": "Gate Holdings",
            "metrics": "Measures write_metrics",
            "plan": "MergePlan plan_merge",
            "policy": "Policy",
            "prune": "PruneResult execute_prune plan_prune",
            "prune_plan": "PruneOptions PrunePlan",
        },
    )

__all__ = [
    "CompactOptions",
    "CompactPlan",
    "CompactResult",
    "Gate",
    "Holdings",
    "Measures",
    "MergePlan",
    "MergeResult",
    "Policy",
    "PruneOptions",
    "PrunePlan",
    "PruneResult",
    "execute_merge",
    "execute_prune",
    "plan_compact",
    "plan_merge",
    "plan_prune",
    "run_compact",
    "write_metrics",
]
