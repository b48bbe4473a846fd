"""A state written as a new full: plan, tasks, commit."""

from ckptctl.merge.execute import MergeResult, execute_merge
from ckptctl.merge.plan import MergePlan, plan_merge

__all__ = ["MergePlan", "MergeResult", "execute_merge", "plan_merge"]
