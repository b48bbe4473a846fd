"""Any history of training, saving and merging gives what the rules say, byte for byte."""

from __future__ import annotations

import os
from functools import partial
from types import ModuleType

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.oracle.histories import Histories, tensorflow_reads

_USUAL = 60
#: `CKPTCTL_HISTORIES=2000 pytest tests/oracle` looks longer, and CI less long on other Pythons.
EXAMPLES = int(os.environ.get("CKPTCTL_HISTORIES", _USUAL))
SETTINGS = settings(
    max_examples=EXAMPLES,
    # The suite looks at the same histories each time; a longer look at new ones.
    derandomize=EXAMPLES <= _USUAL,
    database=None,
    # Files make a history slow to shrink: minutes for what a look at its steps shows.
    phases=[Phase.generate],
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_every_merged_full_is_what_the_rules_say() -> None:
    run_state_machine_as_test(Histories, settings=SETTINGS)


def test_tensorflow_reads_every_merged_full(tf: ModuleType) -> None:
    class Read(Histories):
        check_with_tensorflow = staticmethod(partial(tensorflow_reads, tf))

    some = settings(SETTINGS, max_examples=SETTINGS.max_examples // 6)
    run_state_machine_as_test(Read, settings=some)
