"""The PS's restore logic: the state at a step, as a stream of parts."""

from ckptctl.restore.member import MemberState, PartJob, Survey, survey_part
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.rows import RowsJob, RowsState
from ckptctl.restore.state import CopyJob, MemberTensor, State, StateTensor, open_state

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
