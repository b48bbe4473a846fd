"""The PS's restore logic: the state at a step, as a stream of parts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptctl.restore.member import MemberState
    from ckptctl.restore.options import RestoreOptions
    from ckptctl.restore.part import PartJob, Survey, survey_part
    from ckptctl.restore.rows import RowsJob, RowsState
    from ckptctl.restore.state import CopyJob, MemberTensor, State, StateTensor, open_state
else:
    from ckptctl.lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "member": "MemberState",
            "options": "RestoreOptions",
            "part": "PartJob Survey survey_part",
            "rows": "RowsJob RowsState",
            "state": "CopyJob MemberTensor State StateTensor open_state",
        },
    )

__all__ = [
    "CopyJob",
    "MemberState",
    "MemberTensor",
    "PartJob",
    "RestoreOptions",
    "RowsJob",
    "RowsState",
    "State",
    "StateTensor",
    "Survey",
    "open_state",
    "survey_part",
]
