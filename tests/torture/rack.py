"""One scenario on the rack: recorded once, then spoilt in one way after another."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

from tests.torture.cases import Case
from tests.torture.claims import Claims
from tests.torture.powerloss import Cut, Recording, record
from tests.torture.resident import Resident
from tests.torture.scenarios import Scenario, command, stage
from tests.torture.tracing import CHANGING, READING, Call, Ended, Server, changes

#: Refused, damaged (what cannot be read is not known to be whole), or partly done.
CODES = {12, 4, 3}
#: Longer than any call of these scenarios writes.
_WHOLE = 1 << 24


class Rack:
    """Runs a scenario's command once as it is, and then as often as one likes, spoilt."""

    def __init__(
        self, scenario: Scenario, server: Server, resident: Resident | None, home: Path
    ) -> None:
        self.server = server
        self.home = home
        self.room = home / "room"
        self.stage = stage(scenario, home / "before")
        self.claims = Claims(self.stage, resident)
        self.args = command(scenario.args, self.room)
        self.stage.copy(self.room)
        shutil.copytree(self.room, home / "laid-out", symlinks=True)
        names = [f"?{name}" for name in (*CHANGING, *READING)]
        self.whole = server.run(self.room, self.args, trace=names, strings=_WHOLE)
        assert self.whole.code == 0, self.whole.stderr
        shutil.copytree(self.room, home / "after", symlinks=True)
        self.claims.done(self.room)

    @cached_property
    def changing(self) -> list[Call]:
        """Calls that change something in the room."""
        return changes(self.whole.calls)

    @cached_property
    def reading(self) -> list[Call]:
        """Calls that read something there."""
        changing = set(self.changing)
        return [call for call in self.whole.calls if call not in changing]

    @cached_property
    def power(self) -> Recording:
        """What a power cut may leave."""
        places = self.home / "laid-out", self.home / "after"
        return record(self.whole.log, self.room, *places)

    # ------------------------------------------------------------------------------------

    def kills(self) -> list[Case]:
        return [Case(at, call, "signal=KILL") for at, call in enumerate(self.changing)]

    def failures(self, *errors: str, reading: bool = False) -> list[Case]:
        calls = list(_thinned(self.reading if reading else self.changing))
        return [
            Case(len(errors) * number + at, call, f"error={error}")
            for number, call in enumerate(calls)
            for at, error in enumerate(errors)
        ]

    def killed(self, case: Case) -> None:
        """Fail unless a kill loses nothing, and the next run ends the work."""
        assert self._spoilt(case).code == -signal.SIGKILL
        self.claims.hold(self.room)
        self._again()

    def failed(self, case: Case) -> None:
        """Fail unless a call that fails is told, loses nothing, and the next run ends the work."""
        ended = self._spoilt(case)
        assert "INJECTED" in ended.log
        assert "Traceback" not in ended.stderr, ended.stderr
        if ended.code == 0:  # done without it, but for what the next run clears away
            self.claims.done(self.room, tidy=False)
        else:
            assert ended.code in CODES, f"it ends with {ended.code}: {ended.stderr}"
            assert "error: " in ended.stderr
            assert str(self.room) in ended.stderr, f"no file is named: {ended.stderr}"
            self.claims.hold(self.room)
        self._again()

    def cut(self, cut: Cut) -> None:
        """Fail unless a power cut loses nothing, and the next run ends the work."""
        self.power.lay_out(cut, self.room)
        self.claims.hold(self.room)
        self._again()

    def _spoilt(self, case: Case) -> Ended:
        self.stage.copy(self.room)
        call = case.call
        ended = self.server.run(self.room, self.args, trace=[call.name], inject=case.injection)
        assert not ended.hung, f"it hangs:\n{ended.stderr[-4000:]}"
        hit = [each for each in ended.calls if each.when == call.when]
        assert [(each.name, each.about) for each in hit] == [(call.name, call.about)], (
            f"another call was hit: {hit}"
        )
        return ended

    def _again(self) -> None:
        """Run the command once more; where that is refused, what a user would do then."""
        scenario = self.stage.scenario
        ended = self.server.run(self.room, self.args)
        assert not ended.hung
        if scenario.again and ended.code == 12:
            args = command(scenario.again, self.room)
            ended = self.server.run(self.room, args)
        assert ended.code == 0, f"the second run ends with {ended.code}: {ended.stderr}"
        self.claims.done(self.room)


def _thinned(calls: Sequence[Call]) -> Iterator[Call]:
    """Of a series of calls of a name on one file the first, one in the middle, and the last."""
    for _, series in groupby(calls, key=lambda call: (call.name, call.about)):
        own = list(series)
        yield from own if len(own) <= 3 else (own[0], own[len(own) // 2], own[-1])
