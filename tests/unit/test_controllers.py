"""How agents act: schedules, masks, frequencies, memory, and who reads whose actions."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import toy  # noqa: F401 - registers the environment
from controllers.base import Acted, Controller
from controllers.policy_mac import BEHAVIOUR
from core.config import load, merge, resolve
from core.registry import CONTROLLERS
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, TimeStep, valid_mask
from modules.layers import last_actions
from rl.masked import masked_log_softmax, sample, taken
from run import build

ALGS = Path(__file__).parents[2] / "config" / "algs"
N, A, WIDTH, H = 3, 4, 5, 8
SPEC = EnvSpec((ActionSpec(A),) * N, (WIDTH,) * N, 2, 10, extras={"visible": (N, N)})
MODES = {"qmix": ("explore", "test"), "fop": ("explore", "test"), "macpf": ("explore", "ind", "dep")}
EVERY = [(name, mode) for name, modes in MODES.items() for mode in modes]
TESTS = [(name, mode) for name, mode in EVERY if mode != "explore"]


def controller(name: str, **more: Any) -> Controller:
    """Outputs are made large, so that the agents have preferences."""
    torch.manual_seed(0)
    config = merge(load(ALGS / f"{name}.yaml"), {"env": "toy", "hidden_dim": H} | more)
    made = resolve(config).build("mac", SPEC)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(3)
    return made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(b: int, seed: int = 0, **more: Tensor) -> TimeStep:
    """A random step of b environments."""
    rng = generator(seed)
    avail = torch.rand(b, N, A, generator=rng) < 0.6
    avail[..., 1] |= ~avail.any(-1)
    obs = torch.randn(b, N, WIDTH, generator=rng)
    visible = torch.rand(b, N, N, generator=rng) < 0.6
    step = TimeStep(obs, torch.randn(b, 2, generator=rng), avail, {"visible": visible})
    return dataclasses.replace(step, **more)


def last(b: int, seed: int = 1) -> Tensor:
    return one_hot(torch.randint(A, (b, N), generator=generator(seed)), A).float()


def memory(b: int, seed: int = 2) -> Tensor:
    return torch.randn(b, N, H, generator=generator(seed))


def act(made: Controller, step: TimeStep, mode: str, t_env: int = 0, seed: int = 0, **more: Tensor) -> Tensor:
    """The joint actions."""
    b = len(step.state)
    hidden = more.get("hidden", memory(b))
    return made.act(step, more.get("last", last(b)), hidden, t_env=t_env, mode=mode, rng=generator(seed)).action


def likeliest(made: Controller, step: TimeStep) -> Tensor:
    """The available action of the largest output, agent by agent."""
    out = made.agent(step.obs[:, None], last(len(step.state))[:, None], memory(len(step.state)))
    return torch.where(step.avail, out[0][:, 0], -torch.inf).argmax(-1)


# --- every way of acting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_actions_are_available(name: str, mode: str) -> None:
    step = shown(300)
    action = act(controller(name), step, mode)
    assert taken(step.avail.float(), action).all()


@pytest.mark.parametrize(("name", "mode"), TESTS)
def test_tests_do_not_explore(name: str, mode: str) -> None:
    """Neither the random numbers nor the time change what is done, and no random number is drawn (T-07)."""
    made, step, rng = controller(name), shown(50), generator(5)
    expected = act(made, step, mode)
    for t_env, seed in itertools.product((0, 10**6), (1, 2)):
        assert torch.equal(act(made, step, mode, t_env, seed), expected)
    before = rng.get_state()
    made.act(step, last(50), made.initial_hidden(50), t_env=0, mode=mode, rng=rng)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize(("name", "mode"), TESTS[1:])
def test_stochastic_policies_may_be_tested_by_sampling(name: str, mode: str) -> None:
    made, step = controller(name, test_greedy=False), shown(50)
    assert not torch.equal(act(made, step, mode, seed=1), act(made, step, mode, seed=2))


@pytest.mark.parametrize("name", MODES)
def test_acting_step_by_step_has_the_memory_of_the_unroll(name: str) -> None:
    """T-04: the hidden state handed on through ``act`` is the one that ``unroll`` arrives at, episode for episode."""
    made, b, steps = controller(name), 3, 4
    states = [shown(b, seed) for seed in range(steps + 1)]
    length = torch.full((b,), steps)
    hidden, before, actions, kept = made.initial_hidden(b), torch.zeros(b, N, A), [], []
    for step in states:
        acted = made.act(step, before, hidden, t_env=0, mode="explore", rng=generator())
        hidden, before = acted.hidden, one_hot(acted.action, A).float()
        actions.append(acted.action)
        kept.append(hidden)
    batch = EpisodeBatch(
        action=torch.stack(actions[:-1], 1),
        reward=torch.zeros(b, steps),
        terminated=torch.zeros(b, steps, dtype=torch.bool),
        mask=valid_mask(length, steps),
        length=length,
        **{name: torch.stack([getattr(s, name) for s in states], 1) for name in ("obs", "state", "avail")},
    )
    out = made.unroll(batch)
    features = torch.stack(kept, 1)
    expected = features if name == "macpf" else made.agent.head(features)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", MODES)
def test_the_first_test_mode_is_the_decentralised_one(name: str) -> None:
    """AC-11 e: whatever changes about the other agents, an agent that executes does the same."""
    made, b = controller(name), 60
    mode = made.test_modes[0]
    step, before, hidden = shown(b), last(b), memory(b)
    expected = act(made, step, mode, last=before, hidden=hidden)
    other = shown(b, seed=7)
    for i in range(N):
        own = torch.arange(N) == i

        def mine(x: Tensor, y: Tensor, own: Tensor = own) -> Tensor:
            return torch.where(own[:, None], x, y)

        changed = TimeStep(mine(step.obs, other.obs), other.state, mine(step.avail, other.avail), dict(other.extras))
        others_last, others_hidden = (
            mine(before, last(b, 8)),
            mine(hidden, memory(b, 9)),
        )
        action = act(made, changed, mode, last=others_last, hidden=others_hidden)
        assert torch.equal(action[:, i], expected[:, i])
        assert not torch.equal(action, expected)


# --- basic_mac --------------------------------------------------------------------------------------------------------


def test_epsilon_falls_with_the_steps_taken() -> None:
    """Random actions deviate from the greedy one unless they hit it by chance, uniformly among the available."""
    made, step = controller("qmix", epsilon_start=1.0, epsilon_finish=0.2, epsilon_anneal_time=1000), shown(4000)
    best = likeliest(made, step)
    spared = 1 / step.avail.sum(-1)
    for t_env, epsilon in ((0, 1.0), (500, 0.6), (1000, 0.2), (10**6, 0.2)):
        deviates = (act(made, step, "explore", t_env) != best).double().mean()
        assert float(deviates) == pytest.approx(epsilon * float((1 - spared).mean()), abs=0.02)  # 12,000 draws: 4 s.e.
    assert torch.equal(act(made, step, "test"), best)


def test_random_actions_are_uniform_over_the_available() -> None:
    avail = torch.tensor([True, False, True, True]).expand(6000, N, A).clone()
    action = act(controller("qmix"), shown(6000, avail=avail), "explore")
    share = one_hot(action, A).double().flatten(0, 1).mean(0)
    torch.testing.assert_close(share, torch.tensor([1, 0, 1, 1]).double() / 3, rtol=0, atol=0.015)


# --- policy_mac -------------------------------------------------------------------------------------------------------


def test_policies_are_sampled_as_they_are() -> None:
    """No ε beside it (T-28): frequencies of 6000 draws from one state against the softmax over available actions."""
    made, one = controller("fop"), shown(1)
    step = TimeStep(one.obs.repeat(6000, 1, 1), one.state.repeat(6000, 1), one.avail.repeat(6000, 1, 1), {})
    hidden, before = torch.zeros(6000, N, H), torch.zeros(6000, N, A)
    logits = made.agent(one.obs[:, None], before[:1, None], hidden[:1])[0][0, 0]
    expected = torch.where(one.avail[0], logits, -torch.inf).softmax(-1)
    action = act(made, step, "explore", hidden=hidden, last=before)
    share = one_hot(action, A).double().mean(0)
    torch.testing.assert_close(share, expected.double(), rtol=0, atol=0.03)
    assert expected.max() - expected[expected > 0].min() > 0.1
    torch.testing.assert_close(act(made, step, "test", hidden=hidden, last=before)[0], expected.argmax(-1))


def test_epsilon_of_policies_falls_with_the_steps_taken() -> None:
    """FACMAC's exploration: uniform at first, the policy alone at the end."""
    keys = {"epsilon_start": 1.0, "epsilon_finish": 0.0, "epsilon_anneal_time": 1000}
    made, step = controller("facmac", **keys), shown(4000)
    step = dataclasses.replace(step, avail=torch.ones(4000, N, A, dtype=torch.bool))
    logits = made.agent(step.obs[:, None], last(4000)[:, None], memory(4000))[0][:, 0]
    pi = logits.softmax(-1).mean((0, 1)).detach()
    for t_env, epsilon in ((0, 1.0), (500, 0.5), (1000, 0.0)):
        share = one_hot(act(made, step, "explore", t_env), A).float().mean((0, 1))
        torch.testing.assert_close(share, epsilon / A + (1 - epsilon) * pi, rtol=0, atol=0.02)
    assert pi.max() - pi.min() > 0.05


def test_random_play_at_first_and_what_it_says_of_itself() -> None:
    """Uniform over the available actions before step 100, the policy from then on; tests never notice."""
    made, step = controller("fop", random_steps=100), shown(1)
    logits = made.agent(step.obs[:, None], last(1)[:, None], memory(1))[0][:, 0]
    uniform = step.avail.float() / step.avail.sum(-1, keepdim=True)
    for t_env in (0, 99):
        torch.testing.assert_close(made.behaviour(logits, step.avail, t_env), uniform)
    softmax = torch.where(step.avail, logits, -torch.inf).softmax(-1)
    torch.testing.assert_close(made.behaviour(logits, step.avail, 100), softmax)
    assert (softmax - uniform).abs().max() > 0.01
    many = shown(6000, avail=step.avail.expand(6000, N, A))
    share = one_hot(act(made, many, "explore"), A).float().mean(0)
    torch.testing.assert_close(share, uniform[0], rtol=0, atol=0.03)
    assert torch.equal(act(made, step, "test", 0), act(made, step, "test", 100))


def test_stored_behaviour_is_what_was_drawn_from() -> None:
    """The same actions as without; stored only while collecting."""
    keys = {"epsilon_start": 0.5, "epsilon_finish": 0.5}
    made, plain, step = controller("facmac", store_behaviour=True, **keys), controller("facmac", **keys), shown(50)
    plain.load_state_dict(made.state_dict())

    def acted(by: Controller, mode: str) -> Acted:
        return by.act(step, last(50), memory(50), t_env=7, mode=mode, rng=generator())

    got, wanted = acted(made, "explore"), acted(plain, "explore")
    assert torch.equal(got.action, wanted.action) and torch.equal(got.hidden, wanted.hidden)
    logits = made.agent(step.obs[:, None], last(50)[:, None], memory(50))[0][:, 0]
    torch.testing.assert_close(got.extras[BEHAVIOUR], made.behaviour(logits, step.avail, 7))
    assert not wanted.extras and not acted(made, "test").extras


def test_stored_behaviour_reaches_the_replay() -> None:
    made = build(resolve(merge(load(ALGS / "facmac.yaml"), {"env": "toy", "store_behaviour": True, "seed": 1})))
    episodes = made.runner.collect(t_env=0, mode="explore").episodes
    made.replay.add(episodes)
    pi, batch = made.replay.latest(99).extras[BEHAVIOUR], made.replay.latest(99)
    assert torch.equal(pi, episodes.extras[BEHAVIOUR]) and pi.shape == batch.avail[:, :-1].shape
    real = batch.mask > 0
    torch.testing.assert_close(pi.sum(-1)[real], torch.ones(int(real.sum()), pi.shape[2]))
    assert not pi[~batch.avail[:, :-1]].any() and not pi[~real].any()
    assert (pi.gather(-1, batch.action[..., None])[real] > 0).all()


# --- deterministic_mac ------------------------------------------------------------------------------------------------

LOW, HIGH = (-1.0, 0.0, -10.0), (1.0, 4.0, 10.0)


def boxed(**more: Any) -> Controller:
    """Agents whose boxes differ."""
    torch.manual_seed(0)
    actions = tuple(ActionSpec(2, low, high) for low, high in zip(LOW, HIGH, strict=True))
    config = merge(load(ALGS / "dop_deterministic.yaml"), {"env": "toy", "hidden_dim": H} | more)
    return resolve(config).build("mac", dataclasses.replace(SPEC, actions=actions))


def boxed_step(b: int) -> TimeStep:
    """The same observations in every environment."""
    return shown(b, avail=torch.ones(b, N, 2, dtype=torch.bool), obs=shown(1).obs.repeat(b, 1, 1))


def boxed_act(made: Controller, b: int, mode: str, t_env: int = 0) -> Tensor:
    hidden, before = torch.zeros(b, N, H), torch.zeros(b, N, 2)
    return made.act(boxed_step(b), before, hidden, t_env=t_env, mode=mode, rng=generator()).action


def test_boxes_are_filled_but_never_left() -> None:
    low, high = torch.tensor(LOW)[:, None], torch.tensor(HIGH)[:, None]
    made = boxed(noise_start=5.0, noise_finish=5.0)
    action = boxed_act(made, 500, "explore")
    assert (action >= low).all() and (action <= high).all()
    assert (action.amin(0) == low).all() and (action.amax(0) == high).all(), "noise is clipped at both ends"
    out = made.agent(boxed_step(1).obs[:, None], torch.zeros(1, 1, N, 2), torch.zeros(1, N, H))[0][0, 0]
    expected = (low + high) / 2 + (high - low) / 2 * out.tanh()
    torch.testing.assert_close(boxed_act(made, 1, "test")[0], expected)


def test_noise_is_annealed_and_a_share_of_the_box() -> None:
    """Standard deviations of 20,000 draws around the same point: σ times half of each box's width."""
    made = boxed(noise_start=0.2, noise_finish=0.05, noise_anneal_time=1000)
    mu, half = boxed_act(made, 1, "test"), torch.tensor([1.0, 2.0, 10.0])
    for t_env, sigma in ((0, 0.2), (500, 0.125), (10**6, 0.05)):
        noise = boxed_act(made, 20_000, "explore", t_env) - mu
        torch.testing.assert_close(noise.std(0), (sigma * half)[:, None].expand(N, 2), rtol=0.03, atol=0)
        assert (noise.mean(0).abs() < 0.03 * sigma * half[:, None]).all()
    assert torch.equal(boxed_act(made, 1, "test", 0), boxed_act(made, 1, "test", 10**6))


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ((ActionSpec(3),) * N, "mac=policy_mac"),
        ((ActionSpec(1, 0.0, 1.0), *(ActionSpec(2, 0.0, 1.0),) * 2), "equally many"),
    ],
)
def test_boxes_that_do_not_fit(actions: tuple[ActionSpec, ...], reason: str) -> None:
    spec = dataclasses.replace(SPEC, actions=actions)
    for name in ("deterministic_mac", "gaussian_mac"):
        assert reason in str(CONTROLLERS[name].unmet(spec))


# --- conditional_mac --------------------------------------------------------------------------------------------------


def features(b: int = 40, t: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Features, action masks and visibility as of a batch."""
    rng = generator(3)
    avail = torch.rand(b, t, N, A, generator=rng) < 0.7
    avail[..., 2] |= ~avail.any(-1)
    return torch.randn(b, t, N, H, generator=rng), avail, torch.rand(b, t, N, N, generator=rng) < 0.6


@pytest.mark.parametrize("seen", [True, False])
def test_deciding_in_turn_draws_from_the_dependent_policy(seen: bool) -> None:
    """One pass over the agents gives what the full form gives with the same random numbers, agent by agent."""
    made = controller("macpf")
    h, avail, visible = features()
    visible = visible if seen else None
    action, rng = made.decide_in_turn(h, avail, visible, generator(4)), generator(4)
    joint = torch.zeros(*h.shape[:3], dtype=torch.long)
    for i in range(N):
        logits = made.agent.dependent(h, joint, visible)
        joint[:, :, i] = sample(masked_log_softmax(logits[:, :, i], avail[:, :, i]), rng)
    assert torch.equal(action, joint)


@pytest.mark.parametrize("seen", [True, False])
def test_the_likeliest_actions_in_turn(seen: bool) -> None:
    """Each is the likeliest one given the earlier ones; elsewhere than in mode ``ind`` at least once."""
    made = controller("macpf")
    h, avail, visible = features()
    visible = visible if seen else None
    action = made.decide_in_turn(h, avail, visible, None)
    logits = made.agent.dependent(h, action, visible)
    assert torch.equal(action, torch.where(avail, logits, -torch.inf).argmax(-1))
    assert not torch.equal(action, torch.where(avail, made.agent.independent(h), -torch.inf).argmax(-1))


def test_dependent_actions_follow_earlier_agents_only() -> None:
    """What agent j decides reaches those behind it that see it, and nobody else."""
    made, b = controller("macpf"), 400
    everyone, nobody = torch.ones(b, N, N, dtype=torch.bool), torch.zeros(b, N, N, dtype=torch.bool)
    base = shown(b, avail=torch.ones(b, N, A, dtype=torch.bool), extras={"visible": everyone})
    forced = base.avail.clone()
    forced[:, 1] = torch.tensor([False, False, False, True])
    for visible, reaches in ((everyone, True), (nobody, False)):
        extras = {"visible": visible}
        free = act(made, dataclasses.replace(base, extras=extras), "dep")
        bound = act(made, dataclasses.replace(base, avail=forced, extras=extras), "dep")
        assert not torch.equal(free[:, 1], bound[:, 1])
        assert torch.equal(free[:, 0], bound[:, 0])
        assert torch.equal(free[:, 2], bound[:, 2]) != reaches


def test_where_visibility_is_not_shown_everybody_sees_everybody() -> None:
    made, step = controller("macpf"), shown(50)
    everyone = {"visible": torch.ones(50, N, N, dtype=torch.bool)}
    silent, open_ = dataclasses.replace(step, extras={}), dataclasses.replace(step, extras=everyone)
    assert torch.equal(act(made, silent, "dep"), act(made, open_, "dep"))
    assert not torch.equal(act(made, silent, "dep"), act(made, step, "dep"))


def test_exploration_is_dependent_unless_it_is_switched_off() -> None:
    """AC-11: ``explore`` samples the joint policy; MACPF_CONTROL samples the independent one and has no other."""
    step = shown(200)
    b = len(step.state)
    hidden = memory(b)
    for name, modes in (("macpf", ("ind", "dep")), ("macpf_control", ("ind",))):
        made = controller(name)
        assert made.test_modes == modes
        h, _ = made.agent.encode(step.obs[:, None], last(b)[:, None], hidden)
        avail, visible = step.avail[:, None], step.extras["visible"][:, None]
        if name == "macpf":
            expected = made.decide_in_turn(h, avail, visible, generator(6))
        else:
            expected = sample(masked_log_softmax(made.agent.independent(h), avail), generator(6))
        assert torch.equal(act(made, step, "explore", seed=6), expected[:, 0])


@pytest.mark.parametrize("name", MODES)
def test_nothing_is_kept_between_calls(name: str) -> None:
    made, step = controller(name), shown(20)
    expected = act(made, step, "explore")
    act(made, shown(20, seed=3), "explore")
    assert torch.equal(act(made, step, "explore"), expected)
    assert not made.initial_hidden(20).any()
    assert torch.equal(last_actions(torch.ones(1, 1, N, dtype=torch.long), A)[:, 0], torch.zeros(1, N, A))
