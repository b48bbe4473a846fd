"""What a checkpoint directory holds: chains, timelines, bases, restore points."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptctl.chain.bases import BaseChoice
    from ckptctl.chain.chains import Chain, Chains, find_chains
    from ckptctl.chain.facts import LINEAGE_TENSOR, MERGED_TENSOR, Facts, Lineage, Merged
    from ckptctl.chain.listed import IndexMemory
    from ckptctl.chain.memory import ProvenPairs, VerifiedCheckpoints
    from ckptctl.chain.model import (
        NO_STEP,
        Checkpoint,
        Contents,
        Leftover,
        Problem,
        Removed,
        Scan,
        SparseRows,
        StateFile,
    )
    from ckptctl.chain.names import MAX_STEP, split_step
    from ckptctl.chain.scan import INCREMENT_DIRECTORY, REMOVED_LOG, scan_again, scan_directory
    from ckptctl.chain.unread import check_read
    from ckptctl.chain.vanished import find_changed, telling_what_vanished
    from ckptctl.chain.writer import WRITER_WAIT_S, wait_for_writer
else:
    from ckptctl.lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "bases": "BaseChoice",
            "chains": "Chain Chains find_chains",
            "facts": "LINEAGE_TENSOR MERGED_TENSOR Facts Lineage Merged",
            "listed": "IndexMemory",
            "memory": "ProvenPairs VerifiedCheckpoints",
            "model": "NO_STEP Checkpoint Contents Leftover Problem Removed Scan SparseRows "
            "StateFile",
            "names": "MAX_STEP split_step",
            "scan": "INCREMENT_DIRECTORY REMOVED_LOG scan_again scan_directory",
            "unread": "check_read",
            "vanished": "find_changed telling_what_vanished",
            "writer": "WRITER_WAIT_S wait_for_writer",
        },
    )

__all__ = [
    "INCREMENT_DIRECTORY",
    "LINEAGE_TENSOR",
    "MAX_STEP",
    "MERGED_TENSOR",
    "NO_STEP",
    "REMOVED_LOG",
    "WRITER_WAIT_S",
    "BaseChoice",
    "Chain",
    "Chains",
    "Checkpoint",
    "Contents",
    "Facts",
    "IndexMemory",
    "Leftover",
    "Lineage",
    "Merged",
    "Problem",
    "ProvenPairs",
    "Removed",
    "Scan",
    "SparseRows",
    "StateFile",
    "VerifiedCheckpoints",
    "check_read",
    "find_chains",
    "find_changed",
    "scan_again",
    "scan_directory",
    "split_step",
    "telling_what_vanished",
    "wait_for_writer",
]
