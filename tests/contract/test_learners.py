"""What every algorithm of ``config/algs`` must do, on a toy environment with early ends, time limits and masks."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.config import COMMAND_LINE, ConfigError, Settings, load, merge, resolve
from core.specs import EpisodeBatch
from memory.replay import Replay
from modules.target import Target
from pretended_gpu import DeviceGenerator, draw_apart, move, placed, pretended_gpu
from run import Session, build
from toy import acts_in_a_box

ALGS = Path(__file__).parents[2] / "config" / "algs"
ALGORITHMS = sorted(path.stem for path in ALGS.glob("*.yaml"))
RESOLVED = {name: resolve(load(ALGS / f"{name}.yaml") | {"env": "toy"}) for name in ALGORITHMS}
IN_A_BOX = [name for name, settings in RESOLVED.items() if acts_in_a_box(settings)]
KINDS = {(settings["learner"], settings["mac"]): name for name, settings in reversed(RESOLVED.items())}
"""One algorithm for each pair of a learner and a way of acting."""
FEW = ("iql", "macpf", "ippo", "maac")
"""So many kinds are checked in the quick suite where the check is of what all learners share."""
SMALL = {
    "env": "toy",
    "seed": 3,
    "t_max": 64,
    "batch_size_run": 4,
    "batch_size": 8,
    "buffer_size": 40,
    "target_update_interval": 10_000,
    "epochs": 1,
    "num_mini_batch": 2,
    "chunk_length": 2,
    "moa_pairs": 12,
    "moa_batch": 16,
    "moa_subset": 2,
    "moa_trajectories": 4,
    "moa_refresh": 2,
    "test_interval": 16,
    "test_nepisode": 2,
    "log_interval": 16,
}


def settings(name: str, **more: object) -> Settings:
    """The algorithm on the toy, small; of SMALL and ``more`` only what its components know."""
    config = load(ALGS / f"{name}.yaml") | {"env": "toy"}
    known = resolve(config)
    wanted = SMALL | {"burn_in": 6} | more
    if acts_in_a_box(known):
        wanted["env_args"] = {"box": True} | wanted.get("env_args", {})
    wanted["updates_per_collect"] = min(known["updates_per_collect"], 2)
    if "updates_per_step" in config:
        wanted["updates_per_step"] = 0.2  # so that a short run has some updates
    if wanted.get("agent") == "rnn":
        wanted["sample"] = "episodes"
    given = {key: value for key, value in wanted.items() if key in known}
    return resolve(merge(config, given), dict.fromkeys(config, "the file") | dict.fromkeys(given, COMMAND_LINE))


def filled(name: str, **more: object) -> Session:
    session = build(settings(name, **more))
    while not session.learner.ready(session.replay):
        session.replay.add(session.runner.collect(t_env=0, mode="explore").episodes)
    return session


def slow_copies(session: Session) -> list[Target]:
    return [module for module in session.learner.modules() if isinstance(module, Target)]


def parameters(session: Session) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in session.learner.named_parameters()}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("agent", ["rnn", "mlp"])
def test_every_parameter_learns_and_nothing_else_moves(name: str, agent: str) -> None:
    session = filled(name, agent=agent)
    before, targets = parameters(session), [copy.deepcopy(slow.state_dict()) for slow in slow_copies(session)]
    for _ in range(10):
        for metric, value in session.learner.update(session.replay, 100).items():
            assert torch.isfinite(value).all(), metric
    parts = {n: p for n, p in session.learner.named_parameters() if "slow." not in n}
    moved = {n for n, p in parts.items() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in parts.items() if p.requires_grad}
    for target, then in zip(slow_copies(session), targets, strict=True):
        now = target.state_dict()
        assert target.period is None or all(torch.equal(now[n], then[n]) for n in now if n.startswith("slow."))
        assert all(p.grad is None for p in target.parameters())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_targets_are_copied_when_their_events_are_counted(name: str) -> None:
    session = filled(name, target_update_interval=1)
    session.learner.update(session.replay, 0)
    for target in slow_copies(session):
        online, slow = target._online[0].state_dict(), target.slow.state_dict()
        same = all(torch.equal(online[n], slow[n]) for n in slow if isinstance(slow[n], Tensor))
        assert same == (target.period is not None)


def poisoned(batch: EpisodeBatch) -> EpisodeBatch:
    """The batch with two more padded steps, and NaN wherever nothing happened."""

    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])], 1)

    grown = batch.map(longer)
    states = torch.arange(grown.obs.shape[1])[None] > batch.length[:, None]
    steps = torch.arange(grown.reward.shape[1])[None] >= batch.length[:, None]
    return dataclasses.replace(
        grown,
        obs=grown.obs.masked_fill(states[:, :, None, None], torch.nan),
        state=grown.state.masked_fill(states[:, :, None], torch.nan),
        reward=grown.reward.masked_fill(steps, torch.nan),
        avail=grown.avail | states[:, :, None, None],
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_padding_never_reaches_the_learner(name: str) -> None:
    sessions = [filled(name), filled(name)]
    batches = [s.runner.collect(t_env=0, mode="explore").episodes for s in sessions]
    sessions[0].replay.add(batches[0])
    sessions[1].replay.add(poisoned(batches[1]))
    for _ in range(5):
        losses = [s.learner.update(s.replay, 0) for s in sessions]
        assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])
    assert all(torch.equal(a, b) for a, b in zip(*(parameters(s).values() for s in sessions), strict=True))


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_what_stands_beyond_an_agents_own_entries_never_matters(name: str) -> None:
    """Unlike agents (AC-28): NaN and forbidden actions in their padding change nothing, also once stored."""
    sessions = [filled(name, env_args={"unlike": True, "garbage": garbage}) for garbage in (False, True)]
    spec = sessions[0].env.spec
    assert len(set(spec.obs_dims)) == 3 and (not spec.discrete or len({x.n for x in spec.actions}) == 3)
    for session in sessions:
        session.replay.load_state_dict(copy.deepcopy(session.replay.state_dict()))
        session.replay.add(session.runner.collect(t_env=0, mode="explore").episodes)
    assert sessions[1].env.reset().obs.isnan().any()
    for _ in range(3):
        losses = [s.learner.update(s.replay, 0) for s in sessions]
        assert all(torch.equal(losses[0][k], losses[1][k]) and losses[0][k].isfinite() for k in losses[0])
    assert all(torch.equal(a, b) for a, b in zip(*(parameters(s).values() for s in sessions), strict=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_saved_and_loaded_the_next_update_is_the_same(name: str) -> None:
    one = build(settings(name, t_max=100))
    ticks = one.train()
    for _ in range(3):
        next(ticks)
    saved = copy.deepcopy(one.state_dict())
    two = build(settings(name, t_max=100))
    two.load_state_dict(saved)
    rest = [[(r.kind, r.t_env, r.values) for r in tick.records if r.kind != "perf"] for tick in ticks]
    again = [[(r.kind, r.t_env, r.values) for r in tick.records if r.kind != "perf"] for tick in two.train()]
    assert rest == again
    assert len(rest) > 3
    assert all(torch.equal(a, b) for a, b in zip(parameters(one).values(), parameters(two).values(), strict=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_tests_leave_training_as_it_is(name: str) -> None:
    often, never = build(settings(name, test_interval=10)), build(settings(name, test_nepisode=0))
    for session in (often, never):
        for _ in session.train():
            pass
    assert all(torch.equal(a, b) for a, b in zip(parameters(often).values(), parameters(never).values(), strict=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_seed_decides_the_run(name: str) -> None:
    ends = []
    for seed in (1, 1, 2):
        session = build(settings(name, seed=seed, test_nepisode=0))
        for _ in session.train():
            pass
        ends.append(torch.cat([p.flatten() for p in session.learner.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {*IN_A_BOX}))
def test_continuous_actions_are_refused_before_anything_starts(name: str) -> None:
    with pytest.raises(ConfigError, match="discrete actions"):
        build(settings(name, env_args={"box": True}))


@pytest.mark.parametrize("name", IN_A_BOX)
def test_numbered_actions_are_refused_before_anything_starts(name: str) -> None:
    with pytest.raises(ConfigError, match="actions in a box"):
        build(settings(name, env_args={"box": False}))


def test_both_kinds_of_actions_are_covered() -> None:
    """So that neither of the two tests above is about nothing."""
    assert {"facmac_continuous", "maddpg_continuous", "dop_deterministic", "fop_continuous"} <= {*IN_A_BOX}
    assert {"qmix", "mappo", "facmac", "maddpg"} <= {*ALGORITHMS} - {*IN_A_BOX}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_works_where_nobody_says_who_sees_whom(name: str) -> None:
    session = filled(name, env_args={"visible": False})
    assert all(torch.isfinite(value).all() for value in session.learner.update(session.replay, 0).values())


@pytest.mark.parametrize("name", [pytest.param(k, marks=() if k in FEW else pytest.mark.slow) for k in KINDS.values()])
def test_few_bits_in_hidden_layers_change_an_update_little(name: str) -> None:
    """Losses within a hundredth, nearly the same step, and everything that is kept in single precision."""
    more = {"burn_in": 8} | ({"agent": "mlp"} if name == "iql" else {})  # on a CPU recurrent agents are exact
    exact, rounded = filled(name, **more), filled(name, **more, precision="bfloat16")
    before = torch.cat([p.flatten() for p in parameters(exact).values()])
    losses = [s.learner.update(s.replay, 100) for s in (exact, rounded)]
    for key in (key for key in losses[0] if key.endswith("_loss")):
        assert torch.allclose(losses[1][key], losses[0][key], rtol=1e-2, atol=1e-3), key
    ends = [torch.cat([p.flatten() for p in parameters(s).values()]) for s in (exact, rounded)]
    assert not torch.equal(*ends)
    assert torch.cosine_similarity(*(end - before for end in ends), 0) > 0.97
    assert all(x.dtype != torch.bfloat16 for x in rounded.learner.state_dict().values() if isinstance(x, Tensor))


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_an_update_never_waits_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing from a replay on the device and learning from it; the numbers are those of a CPU."""
    never_waits(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {*KINDS.values()}))
def test_no_update_waits_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other algorithms, which are of the same learners with other keys."""
    never_waits(name, monkeypatch)


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_acting_never_waits_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every mode; the actions are those of a CPU."""
    here, there = build(settings(name)), build(settings(name))
    step, width = here.env.reset(), here.env.spec.n_actions
    last = torch.zeros(*step.avail.shape[:2], width)
    move(there)
    shown = dataclasses.replace(
        step, obs=placed(step.obs), state=placed(step.state), avail=placed(step.avail),
        extras={key: placed(x) for key, x in step.extras.items()},
    )  # fmt: skip
    for mode in (here.controller.explore_mode, *here.controller.test_modes):
        key = {"t_env": 7, "mode": mode}
        hidden = here.controller.initial_hidden(len(step.obs))
        plain = here.controller.act(step, last, hidden, **key, rng=torch.Generator().manual_seed(1))
        with pretended_gpu(monkeypatch):
            rng = DeviceGenerator()
            rng.manual_seed(1)
            hidden = there.controller.initial_hidden(len(step.obs))
            acted = there.controller.act(shown, placed(last), hidden, **key, rng=rng)
        assert torch.allclose(acted.action.held.float(), plain.action.float(), atol=1e-5)
        assert torch.allclose(acted.hidden.held, plain.hidden, atol=1e-5)
        assert acted.extras.keys() == plain.extras.keys()


@pytest.mark.parametrize("stored", ["sparse", "half"])
def test_drawing_from_any_replay_never_waits_for_a_gpu(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    never_waits("vdn", monkeypatch, buffer_format=stored)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", sorted(KINDS.values()))
@pytest.mark.parametrize("graphs", [False, True])
def test_an_update_never_waits_for_this_gpu(name: str, graphs: bool) -> None:
    """As above with a real one, which says itself what waits for it; the first updates may: libraries are loaded."""
    session = filled(name, burn_in=8)
    if graphs and not session.learner.recordable:
        pytest.skip("this learner cannot be recorded")
    session.learner.to("cuda")
    session.learner.rng = torch.Generator("cuda").manual_seed(0)
    session.learner._graphs = {} if graphs else None
    for group in (group for each in session.learner._optimisers.values() for group in each.param_groups):
        group |= {"capturable": graphs} if "capturable" in group else {}
    state, session.replay = session.replay.state_dict(), Replay(session.env.spec, 40, 10**9, "cuda", torch.Generator())
    session.replay.load_state_dict(state)
    for _ in range(4):  # a recording is made in the third one
        session.learner.update(session.replay, 100)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = session.learner.update(session.replay, 100)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(value).all() for value in metrics.values())


def never_waits(name: str, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
    here, there = (filled(name, burn_in=8, **more) for _ in range(2))
    draw_apart(here, torch.Generator())
    move(there)
    plain = here.learner.update(here.replay, 100)
    with pretended_gpu(monkeypatch):
        metrics = there.learner.update(there.replay, 100)
    assert metrics.keys() == plain.keys()
    for key, value in metrics.items():
        number = getattr(value, "held", value)  # some metrics never leave the host
        assert torch.allclose(number, plain[key], rtol=1e-3, atol=1e-5), key
