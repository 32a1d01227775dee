"""Whatever somebody with a held key does, in whatever order: nothing that he comes by may do more than that key."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from server.clock import UuidV7
from server.domain.catalog import Model
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Scope
from server.domain.keys import Actor, ApiKey, KeyChanges, NewKey
from server.domain.ledger import SpendLimit
from server.domain.restrictions import Restrictions
from server.storage import migrate
from server.storage.api_keys import SqlApiKeys
from server.storage.database import Database
from server.storage.teams import Teams
from tests.integration.databases import ManualClock

BOTH = frozenset(Scope)
START = 1_800_000_000
MODELS = ("a/x", "a/y", "a/x:free", "b/x", "b/y:free")
PROVIDERS = ("p", "q")
ADDRESSES = ("10.0.0.1", "10.1.0.1", "11.0.0.1", "2001:db8::1")
TIMES = (START, START + 100, START + 1000, START + 10_000)
REFUSED = {Reason.BEYOND_OWN_RIGHTS, Reason.INVALID_API_KEY, Reason.MISSING_SCOPE}


def some(*entries: str) -> st.SearchStrategy[tuple[str, ...] | None]:
    return st.none() | st.lists(st.sampled_from(entries), min_size=1, max_size=2, unique=True).map(tuple)


scopes = st.sampled_from([BOTH, frozenset({Scope.MANAGEMENT}), frozenset({Scope.INFERENCE})])
expiries = st.none() | st.sampled_from([time + 50 for time in TIMES])
limits = st.none() | st.builds(
    SpendLimit, st.sampled_from([0, 5, 9]), st.sampled_from([None, "daily", "weekly", "monthly"])
)
models = some("a/*", "*:free", "a/x", "b/y:free", "*")
providers = some(*PROVIDERS)
cidrs = some("10.0.0.0/8", "10.0.0.0/16", "0.0.0.0/0", "::/0", "10.0.0.1", "2001:db8::/32")
restrictions = st.builds(Restrictions, models, providers, cidrs)
new_keys = st.builds(NewKey, st.just("k"), scopes, expiries, st.booleans(), limits, restrictions)
intruders = st.builds(
    NewKey,
    st.just("k"),
    scopes.filter(lambda chosen: Scope.MANAGEMENT in chosen),
    expiries,
    st.just(False),
    limits,
    restrictions,
)
values: dict[str, st.SearchStrategy[Any]] = {
    "disabled": st.booleans(),
    "scopes": scopes,
    "expires_at": expiries,
    "limit_nanos": st.sampled_from([None, 0, 5, 9]),
    "models": models,
    "providers": providers,
    "cidrs": cidrs,
}
changes = st.one_of(
    *(strategy.map(lambda value, name=name: KeyChanges(**{name: value})) for name, strategy in values.items()),
    st.fixed_dictionaries({}, optional=values).map(lambda given: KeyChanges(**given)),
)


def uses(key: ApiKey, since: float = START) -> set[tuple[Any, ...]]:
    """What the key lets somebody do from a time on, use by use: of what is asked when it is used, and nothing else."""
    held_to = key.restrictions
    return {
        (scope, model, provider, address, time)
        for scope, model, provider, address, time in itertools.product(Scope, MODELS, PROVIDERS, ADDRESSES, TIMES)
        if scope in key.scopes
        and held_to.allows_model(Model(model, ()))
        and held_to.allows_provider(provider)
        and held_to.allows_address(address)
        and since <= time
        and key.is_valid(time)
    }


def spends(key: ApiKey) -> float:
    return float("inf") if key.spend_limit is None else key.spend_limit.limit_nanos


class Intruder(RuleBasedStateMachine):
    """He has one key that is held to something, and knows the ids of all others."""

    template: Path
    target: Path

    @initialize(own=intruders, others=st.lists(new_keys, min_size=2, max_size=4))
    def begin(self, own: NewKey, others: list[NewKey]) -> None:
        for file in self.target.parent.glob(self.target.name + "*"):
            file.unlink()
        shutil.copy(self.template, self.target)
        self.runner, self.clock = asyncio.Runner(), ManualClock(START)
        self.runner.run(self._begin(own, others))

    async def _begin(self, own: NewKey, others: list[NewKey]) -> None:
        self.database = Database.open(f"sqlite+aiosqlite:///{self.target}", quiet=True)
        self.keys = SqlApiKeys(self.database, self.clock)
        self.team = await Teams(self.database, self.clock, UuidV7()).create("team")
        operator = Actor(team_id=self.team.id)
        made = [(await self.keys.create(operator, new)).info for new in (own, *others)]
        self.own, self.first = made[0], {info.id: info for info in made}
        self.held = {self.own.id}
        self.known = [info.id for info in made]

    def attempt(self, work: Any) -> Any:
        """What came of it; None where it was refused, as it may be."""
        try:
            return self.runner.run(work)
        except GatewayError as error:
            if error.reason not in REFUSED:
                raise
            return None

    def actor(self, pick: int) -> Actor:
        held = sorted(self.held)
        return Actor(held[pick % len(held)], self.team.id)

    def target_of(self, pick: int) -> str:
        return self.known[pick % len(self.known)]

    @rule(by=st.integers(0, 9), new=new_keys)
    def create(self, by: int, new: NewKey) -> None:
        issued = self.attempt(self.keys.create(self.actor(by), new))
        if issued is not None:
            self.held.add(issued.info.id)
            self.known.append(issued.info.id)

    @rule(by=st.integers(0, 9), on=st.integers(0, 9), changes=changes)
    def change(self, by: int, on: int, changes: KeyChanges) -> None:
        self.attempt(self.keys.change(self.actor(by), self.target_of(on), changes))

    @rule(by=st.integers(0, 9), on=st.integers(0, 9))
    def enable(self, by: int, on: int) -> None:
        self.attempt(self.keys.change(self.actor(by), self.target_of(on), KeyChanges(disabled=False)))

    @rule(by=st.integers(0, 9), on=st.integers(0, 9), overlap_s=st.sampled_from([0, 60]))
    def rotate(self, by: int, on: int, overlap_s: int) -> None:
        issued = self.attempt(self.keys.rotate(self.actor(by), self.target_of(on), overlap_s))
        if issued is not None:
            self.held.add(issued.info.id)

    @rule(seconds=st.sampled_from([1, 60, 600]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def he_has_gained_nothing(self) -> None:
        if not hasattr(self, "keys"):
            return
        most = uses(self.own)
        for info in self.runner.run(self._all()):
            before, gained = self.first.get(info.id), uses(info, self.clock.now())
            if info.id in self.held:
                assert gained <= most
                assert spends(info) <= spends(self.own)
            elif before is not None and not (gained <= uses(before) and spends(info) <= spends(before)):
                assert gained <= most
                assert self.own.spend_limit is None
        if self.own.spend_limit is not None:
            assert self.held == {self.own.id}, "two limits are more than one"

    async def _all(self) -> list[ApiKey]:
        return list(await self.keys.list(self.team.id))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.database.close())
            self.runner.close()


@pytest.mark.timeout(300)
def test_nobody_comes_by_more_than_he_had(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{template}"))

    class Machine(Intruder):
        pass

    Machine.template, Machine.target = template, tmp_path / "keys.db"
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=50, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
