"""A state written as a new full, and what is then no longer needed: plan, tasks, commit."""

from ckptctl.merge.compact import (
    CompactOptions,
    CompactPlan,
    CompactResult,
    plan_compact,
    run_compact,
)
from ckptctl.merge.execute import MergeResult, execute_merge
from ckptctl.merge.gate import Gate, Holdings
from ckptctl.merge.metrics import Measures, write_metrics
from ckptctl.merge.plan import MergePlan, plan_merge
from ckptctl.merge.policy import Policy
from ckptctl.merge.prune import PruneResult, execute_prune, plan_prune
from ckptctl.merge.prune_plan import PruneOptions, PrunePlan

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
