"""Whatever happens to a directory, what policy said to keep restores to what it was."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.oracle.recoveries import Recoveries

#: `CKPTCTL_LIVES=1000 pytest tests/oracle -m torture` looks at so many lives.
EXAMPLES = int(os.environ.get("CKPTCTL_LIVES", "400"))
QUICK = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_what_policy_keeps_is_kept() -> None:
    run_state_machine_as_test(Recoveries, settings=QUICK)


@pytest.mark.torture
def test_what_policy_keeps_is_kept_for_a_long_time() -> None:
    """Thousands of steps of new lives, each time."""
    count: Counter[str] = Counter()

    class Counted(Recoveries):
        ran = staticmethod(lambda name: count.update([name]))

    long = settings(QUICK, max_examples=EXAMPLES, derandomize=False, stateful_step_count=40)
    run_state_machine_as_test(Counted, settings=long)
    print(dict(count))
