"""Whether an environment keeps the promises of ``BatchedEnv``: ``python -m envs.check NAME key=value ...``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from jaxtyping import Bool
from torch import Tensor

from core.registry import ENVS
from core.specs import EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv

Factory = Callable[[int, int], BatchedEnv]
"""(number of rows, seed) -> environment."""


class EnvCheckError(AssertionError):
    """Every broken promise, together."""

    def __init__(self, problems: list[str]) -> None:
        """``problems``: each as ``name of the check: what is wrong``."""
        super().__init__(f"the environment breaks {len(problems)} promise(s):\n  - " + "\n  - ".join(problems))
        self.problems = problems


def check_env(factory: Factory, *, n_envs: int = 3, episodes: int = 8, max_steps: int = 200, seed: int = 1) -> None:
    """Steps environments at random and compares what they show.

    Args:
        factory: makes an environment of so many rows with such a seed.
        n_envs: rows, at least 2.
        episodes: episodes per row by which rows and seeds are compared.
        max_steps: steps after which a walk is given up; less than ``episode_limit`` leaves time limits untested.
        seed: of the environments and of the actions.

    Raises:
        EnvCheckError: a promise is broken; the message lists all.
    """
    checker = _Checker(factory, n_envs, episodes, max_steps, seed)
    checks = (
        checker.spec_is_sound,
        checker.tensors_fit_spec,
        checker.tensors_are_own,
        checker.same_seed_same_episode,
        checker.rows_draw_differently,
        checker.rows_are_independent,
        checker.ends_are_clean,
        checker.state_round_trip,
        checker.unavailable_is_refused,
        checker.reseeding_starts_over,
    )
    for check in checks:
        checker.run(check)
    if checker.problems:
        raise EnvCheckError(list(checker.problems))


def tensors_of(shown: TimeStep | Outcome) -> dict[str, Tensor]:
    """Every tensor by name."""
    if isinstance(shown, TimeStep):
        extras = {f"extras[{k}]": x for k, x in shown.extras.items()}
        return {"obs": shown.obs, "state": shown.state, "avail": shown.avail} | extras
    own = {"reward": shown.reward, "terminated": shown.terminated, "truncated": shown.truncated}
    return own | {f"info[{k}]": x for k, x in shown.info.items()} | tensors_of(shown.next)


def differing(a: TimeStep | Outcome, b: TimeStep | Outcome, rows: slice = slice(None)) -> list[str]:
    """Names of the tensors whose ``rows`` are not bit-identical."""
    left, right = tensors_of(a), tensors_of(b)
    if left.keys() != right.keys():
        return sorted(left.keys() ^ right.keys())
    return [name for name, x in left.items() if not torch.equal(x[rows], right[name][rows])]


class Actor:
    """Random available actions; those of a row depend on this row's mask only."""

    def __init__(self, spec: EnvSpec, seed: int) -> None:
        """``seed`` decides all actions."""
        self.spec, self.rng = spec, torch.Generator().manual_seed(seed)

    def act(self, step: TimeStep) -> Tensor:
        """One joint action per row: [b, n], or [b, n, d] in a box."""
        b, n, a = step.avail.shape
        u = torch.rand(b, n, a, generator=self.rng).to(step.avail.device)
        if self.spec.discrete:
            return nth_available(step.avail, u[..., 0])
        return self._in_box(u)

    def steady(self, step: TimeStep) -> Tensor:
        """The first available actions, or the middle of the box."""
        if self.spec.discrete:
            return step.avail.int().argmax(-1)
        return self._in_box(torch.full(step.avail.shape, 0.5, device=step.avail.device))

    def _in_box(self, u: Tensor) -> Tensor:
        low, high = (torch.tensor([getattr(x, k) for x in self.spec.actions]).to(u) for k in ("low", "high"))
        return low[:, None] + u * (high - low)[:, None]


def nth_available(avail: Bool[Tensor, "b n a"], u: Tensor) -> Tensor:
    """The action at fraction ``u`` of the available ones."""
    index = (u * avail.sum(-1)).long()
    return (avail.cumsum(-1) > index[..., None]).int().argmax(-1)


class _Checker:
    """One method per promise; each notes what is broken."""

    def __init__(self, factory: Factory, n_envs: int, episodes: int, max_steps: int, seed: int) -> None:
        self.factory, self.n, self.episodes, self.max_steps, self.seed = factory, n_envs, episodes, max_steps, seed
        self.problems: dict[str, None] = {}
        self.name = ""

    def run(self, check: Callable[[], None]) -> None:
        """A check that cannot be finished is a broken promise too."""
        self.name = check.__name__
        try:
            check()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is reported)
            self.expect(False, f"raised {type(error).__name__}: {str(error)[:300]}")

    def expect(self, kept: bool, problem: str) -> None:
        """Notes ``problem`` once, unless ``kept``."""
        if not kept:
            self.problems[f"{self.name}: {problem}"] = None

    @contextmanager
    def made(self, *seeds: int) -> Iterator[list[BatchedEnv]]:
        """Environments with these seeds, closed at the end (twice, which must be safe)."""
        envs: list[BatchedEnv] = []
        try:
            for seed in seeds:
                envs.append(self.factory(self.n, seed))
            yield envs
        finally:
            for env in envs * 2:
                env.close()

    def walk(self, env: BatchedEnv, seed: int = 0) -> Iterator[tuple[Tensor, TimeStep, Outcome]]:
        """(action, what was shown before, outcome) at random, ended rows being reset, up to ``max_steps``."""
        actor, shown = Actor(env.spec, self.seed + seed), env.reset()
        for _ in range(self.max_steps):
            action = actor.act(shown)
            outcome = env.step(action)
            yield action, shown, outcome
            over = outcome.terminated | outcome.truncated
            shown = env.reset(over) if bool(over.any()) else outcome.next

    def spec_is_sound(self) -> None:
        """Sizes that networks can be built from."""
        with self.made(self.seed) as (env,):
            spec = env.spec
            self.expect(env.n_envs == self.n, f"n_envs is {env.n_envs}, asked for were {self.n}")
            self.expect(len(spec.obs_dims) == spec.n_agents, "obs_dims needs one entry per agent")
            sizes = (*spec.obs_dims, *(x.n for x in spec.actions), spec.state_dim, spec.episode_limit)
            self.expect(min(sizes) >= 1, "every size and the episode limit must be at least 1")
            self.expect(len({x.discrete for x in spec.actions}) == 1, "numbered and box actions cannot be mixed")
            self.expect(len(set(spec.metrics)) == len(spec.metrics), "a metric is named twice")
            self.expect(bool(env.label()) and not env.label().startswith("/"), "label() must be a relative path")

    def tensors_fit_spec(self) -> None:
        """Shapes, dtypes, device; no empty mask; zeros and False as padding; finite numbers."""
        with self.made(self.seed) as (env,):
            self._fits(env, env.reset())
            for _, _, outcome in self.walk(env):
                self._fits(env, outcome.next)
                self._outcome_fits(env, outcome)

    def _fits(self, env: BatchedEnv, shown: TimeStep) -> None:
        spec, b, n = env.spec, env.n_envs, env.spec.n_agents
        self._is(env, "obs", shown.obs, (b, n, spec.obs_dim), torch.float32)
        self._is(env, "state", shown.state, (b, spec.state_dim), torch.float32)
        self._is(env, "avail", shown.avail, (b, n, spec.n_actions), torch.bool)
        self.expect(set(shown.extras) == set(spec.extras), f"extras are {sorted(shown.extras)}, not as in spec")
        for name, shape in spec.extras.items():
            if name in shown.extras:
                self._is(env, f"extras[{name}]", shown.extras[name], (b, *shape), torch.bool)
        own = shown.avail & spec.action_mask.to(env.device)
        self.expect(bool(own.any(-1).all()), "avail is empty: every agent, also a dead one, needs an action")
        for i, (dim, actions) in enumerate(zip(spec.obs_dims, spec.actions, strict=True)):
            self.expect(not shown.obs[:, i, dim:].any(), f"obs of agent {i} is not zero beyond its {dim} entries")
            beyond = actions.discrete and bool(shown.avail[:, i, actions.n :].any())
            self.expect(not beyond, f"avail of agent {i} goes beyond its {actions.n} actions")
        self.expect(spec.discrete or bool(shown.avail.all()), "avail must be all True in a box")

    def _outcome_fits(self, env: BatchedEnv, outcome: Outcome) -> None:
        b, spec = env.n_envs, env.spec
        self._is(env, "reward", outcome.reward, (b, spec.n_agents)[: 1 + (spec.reward == "individual")], torch.float32)
        self._is(env, "terminated", outcome.terminated, (b,), torch.bool)
        self._is(env, "truncated", outcome.truncated, (b,), torch.bool)
        self.expect(set(outcome.info) == set(spec.metrics), f"info has {sorted(outcome.info)}, not spec.metrics")
        for name, x in outcome.info.items():
            self._is(env, f"info[{name}]", x, (b,), torch.float32)

    def _is(self, env: BatchedEnv, name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.expect(x.shape == shape, f"{name} has shape {tuple(x.shape)}, not {shape}")
        self.expect(x.dtype == dtype, f"{name} is {x.dtype}, not {dtype}")
        self.expect(x.device.type == env.device.type, f"{name} is on {x.device}, not on {env.device}")
        self.expect(bool(torch.isfinite(x).all()), f"{name} is not finite")

    def tensors_are_own(self) -> None:
        """Later steps change nothing that was shown, and writing into what was shown changes no later step."""
        with self.made(self.seed, self.seed) as (env, spoiled):
            kept: list[tuple[str, Tensor, Tensor]] = []
            actor, shown, theirs = Actor(env.spec, self.seed), env.reset(), spoiled.reset()
            for _ in range(min(self.max_steps, 20)):
                kept += [(name, x, x.clone()) for name, x in tensors_of(shown).items()]
                action = actor.act(shown)
                _spoil(theirs)
                outcome, other = env.step(action), spoiled.step(action)
                self.expect(not differing(outcome, other), "writing into what was shown changes later steps")
                over = outcome.terminated | outcome.truncated
                _spoil(other)
                shown, theirs = env.reset(over), spoiled.reset(over)
            changed = sorted({name for name, x, copy in kept if not torch.equal(x, copy)})
            self.expect(not changed, f"{changed} changed after they were shown: show copies")

    def same_seed_same_episode(self) -> None:
        """Two instances with one seed and the same calls are bit-identical."""
        with self.made(self.seed, self.seed) as (one, two):
            for (_, shown, outcome), (_, shown2, outcome2) in zip(self.walk(one), self.walk(two), strict=True):
                unlike = differing(shown, shown2) + differing(outcome, outcome2)
                self.expect(not unlike, f"{unlike} differ between two instances with one seed")

    def rows_draw_differently(self) -> None:
        """Where there is randomness, every row has its own, and it comes from the seed."""
        with self.made(self.seed, self.seed + 1) as (env, other):
            traces, reseeded = self._traces(env), self._traces(other)
        twins = [(i, j) for i in range(self.n) for j in range(i) if torch.equal(traces[i], traces[j])]
        random = traces.shape != reseeded.shape or not torch.equal(traces, reseeded)
        self.expect(not (random and twins), "rows draw the same random numbers")
        self.expect(random or len(twins) == self.n * (self.n - 1) // 2, "another seed changes nothing, but rows differ")

    def _traces(self, env: BatchedEnv) -> Tensor:
        """What each row shows in a few short episodes under one fixed policy: [b, ...]."""
        seen: list[Tensor] = []
        for _ in range(self.episodes):
            shown = env.reset()
            seen += [shown.obs.flatten(1), shown.state]
            for _ in range(min(self.max_steps, 5)):
                shown = env.step(Actor(env.spec, self.seed).steady(shown)).next
                seen += [shown.obs.flatten(1), shown.state]
        return torch.cat(seen, -1)

    def rows_are_independent(self) -> None:
        """Whatever happens in row 0, other actions and resets in the middle, changes nothing in the other rows."""
        rest = slice(1, None)
        with self.made(self.seed, self.seed) as (calm, busy):
            actor, wild = Actor(calm.spec, self.seed), Actor(calm.spec, self.seed + 1)
            shown, shown2 = calm.reset(), busy.reset()
            for t in range(self.max_steps):
                action = actor.act(shown)
                action2 = torch.cat([wild.act(shown2)[:1], action[rest]])
                outcome, outcome2 = calm.step(action), busy.step(action2)
                unlike = differing(outcome, outcome2, rest)
                self.expect(not unlike, f"row 0's actions or resets change {unlike} of other rows")
                over, over2 = (x.terminated | x.truncated for x in (outcome, outcome2))
                over2[0] |= t % 3 == 1
                shown = calm.reset(over) if over.any() else outcome.next
                shown2 = busy.reset(over2) if over2.any() else outcome2.next
                unlike = differing(shown, shown2, rest)
                self.expect(not unlike, f"resetting row 0 changes {unlike} of other rows")
                if unlike:
                    break

    def ends_are_clean(self) -> None:
        """Two ways to end, never both; at the limit at the latest; then silence until the reset, also in the middle."""
        with self.made(self.seed) as (env,):
            actor, limit = Actor(env.spec, self.seed), env.spec.episode_limit
            cuts = {age for again in range(3) for age in self._cuts(env, actor, again)}
        early = sorted(cuts - {limit})
        self.expect(limit not in cuts or not early, f"rows were cut after {early} and {limit} steps: shared clock?")

    def _cuts(self, env: BatchedEnv, actor: Actor, again: int) -> set[int]:
        """The ages at which rows were truncated; after step ``again``, but for 0, row 0 begins again in the middle."""
        limit, shown, cuts = env.spec.episode_limit, env.reset(), set[int]()
        age, running = torch.zeros(self.n, dtype=torch.int64), torch.ones(self.n, dtype=torch.bool)
        for t in range(min(self.max_steps, 2 * limit)):
            outcome = env.step(self._idle(actor.act(shown), shown, running))
            ended = outcome.terminated | outcome.truncated
            self._ended_rows_rest(shown, outcome, ~running.to(env.device))
            age, shown = age + running, outcome.next
            cuts |= set(age[outcome.truncated.cpu()].tolist())
            running = running & ~ended.cpu()
            self.expect(not (running & (age >= limit)).any(), f"a row runs on after {limit} steps, its limit")
            if again and t == again:
                shown = env.reset(torch.arange(self.n, device=env.device) == 0)
                age[0], running[0] = 0, True
        return cuts

    def _idle(self, action: Tensor, shown: TimeStep, running: Tensor) -> Tensor:
        """``action``, with something senseless in the rows that have ended."""
        if action.is_floating_point():
            return torch.where(running[:, None, None].to(action.device), action, torch.nan)
        return torch.where(running[:, None].to(action.device), action, (~shown.avail).int().argmax(-1))

    def _ended_rows_rest(self, before: TimeStep, outcome: Outcome, idle: Tensor) -> None:
        self.expect(not (outcome.terminated & outcome.truncated).any(), "terminated and truncated together")
        self.expect(not outcome.reward[idle].any(), "a row that has ended gets a reward")
        self.expect(not (outcome.terminated | outcome.truncated)[idle].any(), "a row that has ended ends again")
        old, new = tensors_of(before), tensors_of(outcome.next)
        moved = [name for name, x in old.items() if not torch.equal(x[idle], new[name][idle])]
        self.expect(not moved, f"{moved} of a row that has ended change")

    def state_round_trip(self) -> None:
        """``state_dict`` holds everything: what follows is the same in the same instance and in another one."""
        with self.made(self.seed, self.seed + 7) as (env, other):
            if not env.state_dict():
                return
            actor, shown = Actor(env.spec, self.seed), env.reset()
            for _ in range(3):
                outcome = env.step(actor.act(shown))
                shown = env.reset(outcome.terminated | outcome.truncated)
            state = env.state_dict()
            self.expect(_plain(state), "state_dict holds something else than tensors, plain values and containers")
            first = self._follow(env, shown)
            for who, name in ((env, "the same"), (other, "another")):
                who.load_state_dict(state)
                again = self._follow(who, shown)
                unlike = sorted({x for a, b in zip(first, again, strict=True) for x in differing(a, b)})
                self.expect(not unlike, f"after load_state_dict in {name} instance {unlike} differ")

    def _follow(self, env: BatchedEnv, shown: TimeStep) -> list[Outcome]:
        actor, outcomes = Actor(env.spec, self.seed + 1), []
        for _ in range(min(self.max_steps, 30)):
            outcomes.append(env.step(actor.act(shown)))
            shown = env.reset(outcomes[-1].terminated | outcomes[-1].truncated)
        return outcomes

    def unavailable_is_refused(self) -> None:
        """An unavailable action, or one outside the box, raises ``ValueError`` with row and agent; nothing happens."""
        with self.made(self.seed) as (env,):
            actor, shown = Actor(env.spec, self.seed), env.reset()
            for _ in range(self.max_steps if env.spec.discrete else 0):
                if not shown.avail.all():
                    break
                outcome = env.step(actor.act(shown))
                shown = env.reset(outcome.terminated | outcome.truncated)
            for row, agent, forbidden in self._forbidden(env.spec, shown):
                action = actor.act(shown)
                spoiled = action.clone()
                spoiled[row, agent] = forbidden
                self._refuses(env, spoiled, row, agent)
            env.step(action)

    def _forbidden(self, spec: EnvSpec, shown: TimeStep) -> list[tuple[int, int, int | float]]:
        """Row, agent, and an action that it must not take, or a number that no dimension of its box has."""
        if spec.discrete:
            beyond = [self.n - 1, spec.n_agents - 1, spec.n_actions]
            row, agent, action = ((~shown.avail).nonzero().tolist() or [beyond])[-1]
            return [(row, agent, action)]
        row, agent = self.n - 1, spec.n_agents - 1
        box = spec.actions[agent]
        low, high = float(box.low or 0), float(box.high or 0)
        return [(row, agent, x) for x in (2 * high - low, 2 * low - high, float("nan"))]

    def _refuses(self, env: BatchedEnv, spoiled: Tensor, row: int, agent: int) -> None:
        forbidden = spoiled[row, agent].tolist()
        try:
            env.step(spoiled)
        except ValueError as error:
            named = f"row {row}" in str(error) and f"agent {agent}" in str(error)
            self.expect(named, f"the error does not say 'row {row}' and 'agent {agent}': {error}")
        else:
            self.expect(False, f"action {forbidden} of agent {agent} was not available, but no ValueError came")

    def reseeding_starts_over(self) -> None:
        """``seed_rows`` makes an instance as if newly built."""
        with self.made(self.seed, self.seed + 5) as (fresh, used):
            used.step(Actor(used.spec, self.seed).act(used.reset()))
            try:
                used.seed_rows(self.seed)
            except NotImplementedError:
                return
            shown, shown2 = fresh.reset(), used.reset()
            unlike = differing(shown, shown2)
            for a, b in zip(self._follow(fresh, shown), self._follow(used, shown2), strict=True):
                unlike += differing(a, b)
            self.expect(not unlike, f"after seed_rows {sorted(set(unlike))} differ from a new instance's")


def _spoil(shown: TimeStep | Outcome) -> None:
    """Overwrites what was shown, as a receiver may, but for the flags that are still read."""
    for name, x in tensors_of(shown).items():
        if x.dtype == torch.bool and name not in ("terminated", "truncated"):
            x.logical_not_()
        elif x.dtype != torch.bool:
            x.add_(1)


def _plain(value: Any) -> bool:
    """Whether a checkpoint can hold ``value``."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, Tensor | bool | int | float | str | bytes)


def main(argv: list[str]) -> int:
    """Checks the registered environment ``argv[0]`` with the ``env_args`` that follow as ``key=value``."""
    env_args = {key: yaml.safe_load(value) for key, _, value in (arg.partition("=") for arg in argv[1:])}
    cls = ENVS[argv[0]]
    cfg = cls.settle(cls.Config(**env_args))
    try:
        check_env(lambda n_envs, seed: cls(cfg, n_envs, "cpu", seed))
    except EnvCheckError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{argv[0]} keeps its promises\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
