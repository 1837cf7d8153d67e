"""Squashed normal policies: their densities, and agents that act by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

import toy  # noqa: F401 - registers the environment
from controllers.gaussian_mac import UNCLIPPED
from controllers.squashed_mac import SquashedMAC
from core.config import load, merge, resolve
from core.specs import ActionSpec, EnvSpec, TimeStep
from ppo_family import BOX, collected, session
from rl.distributions import SquashedGaussian
from rl.gaussian import boxed

ALGS = Path(__file__).parents[2] / "config" / "algs"
LOW, HIGH = torch.tensor([-2.0, 0.1]), torch.tensor([5.0, 0.3])
BOXES = EnvSpec((ActionSpec(2, -2.0, 5.0), ActionSpec(2, 0.1, 0.3)), (3, 3), 1, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squashed(mean: list[float], log_std: list[float], draws: int) -> SquashedGaussian:
    """The same policy ``draws`` times, in double precision."""
    parameters = (
        torch.tensor(x, dtype=torch.double).expand(draws, 2).clone().requires_grad_() for x in (mean, log_std)
    )
    return SquashedGaussian(*parameters, LOW.double(), HIGH.double())


def test_densities_are_those_of_the_change_of_variables() -> None:
    law = squashed([0.4, -1.0], [-0.3, 0.5], 500)
    action, log_prob = law.rsample(generator())
    centre, half = (law.low + law.high) / 2, (law.high - law.low) / 2
    transforms = [TanhTransform(), AffineTransform(centre, half)]
    oracle = TransformedDistribution(Normal(law.mean, law.log_std.exp()), transforms).log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, oracle, rtol=1e-5, atol=1e-5)
    # and without a formula: the normal density over the slope of the map, by differences
    x, step = torch.atanh((action - centre) / half), 1e-5
    slope = (boxed(x + step, law.low, law.high) - boxed(x - step, law.low, law.high)) / (2 * step)
    normal = Normal(law.mean, law.log_std.exp()).log_prob(x)
    torch.testing.assert_close(log_prob, (normal - slope.log()).sum(-1), rtol=1e-5, atol=1e-5)


def test_densities_integrate_to_one() -> None:
    """Over one dimension, between its own draws, which fill the box."""
    draws = 200_000
    mean, log_std = torch.full((draws, 1), 0.3).double(), torch.full((draws, 1), 0.2).double()
    action, log_prob = SquashedGaussian(mean, log_std, LOW[:1].double(), HIGH[:1].double()).rsample(generator())
    order = action[:, 0].argsort()
    total = torch.trapezoid(log_prob[order].exp(), action[order, 0])
    assert float(total) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("result", [0, 1], ids=["action", "log_prob"])
@pytest.mark.parametrize("parameter", [0, 1], ids=["mean", "log_std"])
def test_draws_have_gradients(result: int, parameter: int) -> None:
    """Against differences with the same random numbers."""
    law, step = squashed([0.4, -1.0], [-0.3, 0.5], 50), 1e-6

    def drawn(shift: float) -> float:
        moved = [law.mean.detach(), law.log_std.detach()]
        moved[parameter] = moved[parameter] + shift
        return float(SquashedGaussian(*moved, law.low, law.high).rsample(generator())[result].sum())

    leaf = (law.mean, law.log_std)[parameter]
    slope = torch.autograd.grad(law.rsample(generator())[result].sum(), leaf)[0]
    assert float(slope.sum()) == pytest.approx((drawn(step) - drawn(-step)) / (2 * step), rel=1e-4)


def controller(**more: Any) -> SquashedMAC:
    torch.manual_seed(0)
    return resolve(merge(load(ALGS / "fop_continuous.yaml"), {"env": "toy"} | more)).build("mac", BOXES)


def shown(b: int) -> TimeStep:
    return TimeStep(torch.randn(b, 2, 3, generator=generator()), torch.zeros(b, 1), torch.ones(b, 2, 2).bool())


def act(made: SquashedMAC, step: TimeStep, mode: str) -> Any:
    b = len(step.state)
    last = torch.zeros(b, 2, 2)
    return made.act(step, last, made.initial_hidden(b), t_env=0, mode=mode, rng=generator(1))


@pytest.mark.parametrize("share", [True, False])
def test_agents_begin_at_the_centres_of_their_boxes(share: bool) -> None:
    made, step = controller(share_parameters=share), shown(200)
    centre = torch.tensor([[1.5, 1.5], [0.2, 0.2]])
    torch.testing.assert_close(act(made, step, "test").action, centre.expand(200, 2, 2))
    drawn = act(made, step, "explore").action
    share_of_box = ((drawn - centre) / ((HIGH - LOW)[:, None] / 2)).abs()
    assert 0.3 < share_of_box.mean() < 0.8  # σ is about 1


def test_actions_stay_inside_of_asymmetric_boxes_and_fill_them() -> None:
    made, step = controller(log_std_init=1.5), shown(4000)
    acted = act(made, step, "explore")
    assert (acted.action >= LOW[:, None]).all() and (acted.action <= HIGH[:, None]).all()
    torch.testing.assert_close(acted.action.amin((0, 2)), LOW, rtol=0, atol=1e-3)
    torch.testing.assert_close(acted.action.amax((0, 2)), HIGH, rtol=0, atol=1e-3)
    x = acted.extras[UNCLIPPED]
    want = (LOW + HIGH)[:, None] / 2 + (HIGH - LOW)[:, None] / 2 * x.tanh()
    torch.testing.assert_close(acted.action, want)


@pytest.mark.parametrize(("bias", "held"), [(9.0, 2.0), (-9.0, -5.0)])
def test_deviations_are_held_in_their_range(bias: float, held: float) -> None:
    made = controller(log_std_init=bias)
    out, _ = made.agent(shown(5).obs[:, None], torch.zeros(5, 1, 2, 2))
    assert torch.equal(out.chunk(2, -1)[1], torch.full((5, 1, 2, 2), held))


def test_deviations_depend_on_what_is_seen() -> None:
    out, _ = controller().agent(shown(5).obs[:, None], torch.zeros(5, 1, 2, 2))
    log_std = out.chunk(2, -1)[1]
    assert log_std.std(0).min() > 1e-3 and log_std.abs().max() < 2


def test_tests_take_the_squashed_means() -> None:
    made, step = controller(), shown(20)
    with torch.no_grad():
        made.agent.agent.head.weight.normal_(generator=generator(2))
    mean = made.agent(step.obs[:, None], torch.zeros(20, 1, 2, 2))[0][:, 0].chunk(2, -1)[0]
    assert mean.std() > 0.1
    torch.testing.assert_close(act(made, step, "test").action, boxed(mean, made.low, made.high))


@pytest.mark.parametrize("name", ["mappo", "happo", "maipg"])
def test_on_policy_learners_learn_from_what_was_squashed(name: str) -> None:
    made = session(name, **(BOX | {"mac": "squashed_mac"}))
    batch = collected(made)
    assert torch.equal(batch.action, batch.extras[UNCLIPPED].tanh())
    assert torch.equal(made.controller.drawn(batch), batch.extras[UNCLIPPED])
    assert all(x.isfinite().all() for x in made.learner.update(made.replay, 0).values())


def test_ratios_of_densities_are_the_same_before_and_after_the_map() -> None:
    made, other, step = controller(), controller(log_std_init=0.7), shown(30)
    acted = act(made, step, "explore")
    x = acted.extras[UNCLIPPED].double()
    before, after = [], []
    for which in (made, other):
        out = which.agent(step.obs[:, None], torch.zeros(30, 1, 2, 2))[0][:, 0]
        before.append(which.policy(out, step.avail).log_prob(x.float()))
        law = which.squashed(out)
        normal = Normal(law.mean.double(), law.log_std.exp().double())
        after.append(TransformedDistribution(normal, [TanhTransform()]).log_prob(x.tanh()).sum(-1))
    ratios = [one - two for one, two in (before, after)]
    torch.testing.assert_close(ratios[0].double(), ratios[1], rtol=1e-3, atol=1e-3)
    assert ratios[0].std() > 0.05


def test_numbered_actions_are_refused() -> None:
    reason = SquashedMAC.unmet(EnvSpec((ActionSpec(3),) * 2, (1, 1), 1, 1))
    assert reason is not None and "box" in reason
