"""What PPO updates start from and descend on: against plain Python, by hand, and where nothing may matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import toy_envs
from controllers.gaussian_mac import UNCLIPPED
from core.config import ConfigError
from core.registry import ENVS
from core.specs import EpisodeBatch
from learners.ppo import Experience, PPOConfig, active, gather
from ppo_family import BOX, FAMILY, Held, Oracle, collected, learnt, moved, poisoned, session, twin
from rl.policy_gradient import clipped_value_loss, residual_variance
from run import Session

WHOLE = {"chunk_length": 1000}
KINDS = [("mappo", {}), ("ippo", {}), ("mappo", BOX), ("ippo", {"agent": "rnn"}), ("mappo", {"value_norm": "popart"})]


def gathered(made: Session, batch: Any) -> Experience:
    return gather(batch, made.controller, made.learner.value, made.learner.cfg)[0]


def ready(name: str, **more: Any) -> tuple[Session, Any]:
    """A session that has learnt a little, so that its values have a scale, and fresh episodes."""
    made = learnt(session(name, **more), 2)
    return made, collected(made)


# --- against plain Python ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), KINDS)
def test_advantages_returns_and_probabilities(name: str, more: dict[str, Any]) -> None:
    made, batch = ready(name, **WHOLE | more)
    data, oracle = gathered(made, batch), Oracle(made, batch)
    advantage = oracle.advantage()
    assert 0 < len(advantage) < len(oracle.alive) or more is BOX
    for (e, t, i), a in advantage.items():
        assert float(data.advantage[e, t, i]) == pytest.approx(a, abs=1e-4)
    for place, lives in oracle.alive.items():
        assert float(data.log_prob[place]) == pytest.approx(oracle.log_prob[place], abs=1e-5)
        assert bool(data.active[place]) == lives
    for e, t in oracle.places:
        columns = data.returns[e, t].tolist()
        assert columns == pytest.approx([oracle.returns(e, t, m) for m in range(len(columns))], abs=1e-4)
    assert data.mask.sum() == len(oracle.places)
    assert data.returns.shape[-1] == (3 if name == "ippo" else 1)


@pytest.mark.parametrize(("name", "more", "length"), [(*kind, 1000) for kind in KINDS] + [("mappo", {}, 2)])
def test_policy_and_value_loss(name: str, more: dict[str, Any], length: int) -> None:
    """For the parameters after an update, on the experience from before; chunked, the memories at the chunks' starts
    are old, so there the policies and values are compared where the parameters are still the old ones."""
    made, batch = ready(name, **{"chunk_length": length} | more)
    data, after = gathered(made, batch), twin(made)
    if length > 5:
        moved(after)
    old = twin(made)
    assert after.learner.policy_loss(data)[0].item() == pytest.approx(Oracle(old, batch).policy_loss(after), abs=1e-5)
    loss = after.learner.value.loss(data).item()
    assert loss == pytest.approx(Oracle(old, batch).value_loss(after), rel=1e-4)


def test_clipped_value_loss_by_hand() -> None:
    value, old, target = (torch.tensor(x) for x in ([1.0, 1.0, 0.0, 30.0], [0.5, 0.5, 0.0, 30.0], [2.0, 0.6, 3.0, 0.0]))
    # (1-2)²/2 against (.7-2)²/2; (1-.6)²/2 against (.7-.6)²/2; equal; beyond δ: 10 (30 - 5)
    expected = [0.845, 0.08, 4.5, 250.0]
    assert clipped_value_loss(value, old, target, 0.2, 10.0).tolist() == pytest.approx(expected)
    assert clipped_value_loss(value, old, target, None, 10.0).tolist() == pytest.approx([0.5, 0.08, 4.5, 250.0])


def test_residual_variance_by_hand() -> None:
    x, mask = torch.tensor([[1.0, 3.0], [5.0, torch.nan]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    explained = torch.tensor([[0.0, 2.0], [4.0, 0.0]])
    assert residual_variance(x, explained, mask) == pytest.approx(0.0)
    assert residual_variance(x, torch.zeros(2, 2), mask) == pytest.approx(1.0)
    assert residual_variance(x, -explained, mask) == pytest.approx(4.0)


# --- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more"), [("mappo", {}), ("ippo", BOX), ("happo", {"agent": "rnn"}), ("mappo", {"agent": "mlp"})]
)
def test_chunks_see_what_the_whole_unroll_sees(name: str, more: dict[str, Any]) -> None:
    """At the first step of an update, every ratio is 1 and every value the old one, whatever the chunks' length."""
    made, batch = ready(name, **more)
    for length in (1, 3, 1000):
        cfg = dataclasses.replace(made.learner.cfg, chunk_length=length)
        made.learner.value.cfg = cfg
        data, _ = gather(batch, made.controller, made.learner.value, cfg)
        assert float(data.mask.sum()) == float(batch.mask.sum())
        out, _ = made.controller.agent(data.obs, data.last, data.policy_memory, data.length)
        log_prob = made.controller.policy(out, data.avail).log_prob(data.action)
        real = data.mask > 0
        torch.testing.assert_close(log_prob[real], data.log_prob[real], atol=1e-5, rtol=1e-5)
        x = made.learner.value.inputs(data.obs, data.last, data.state)
        value, _ = made.learner.value.critic(x, data.value_memory, data.length)
        torch.testing.assert_close(value.squeeze(-1)[real], data.value[real], atol=1e-5, rtol=1e-5)


def test_mini_batches_are_all_chunks_once_with_all_agents() -> None:
    made, batch = ready("mappo", epochs=3, num_mini_batch=4)
    data = gathered(made, batch)
    parts = list(data.parts(made.learner.cfg, torch.Generator().manual_seed(0)))
    assert len(parts) == 12
    whole = data.obs.flatten(1).sum(1)
    for epoch in range(3):
        rows = torch.cat([part.obs.flatten(1).sum(1) for part in parts[4 * epoch : 4 * epoch + 4]])
        torch.testing.assert_close(rows.sort()[0], whole.sort()[0])
        assert not torch.equal(rows, whole)
    assert all(part.obs.shape[1:] == data.obs.shape[1:] for part in parts)
    assert all(torch.equal(part.mask.sum(1).long(), part.length) for part in parts)


def test_one_part_draws_no_random_number() -> None:
    made, batch = ready("mappo")
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    assert [part is not None for part in gathered(made, batch).parts(made.learner.cfg, rng)] == [True]
    assert torch.equal(rng.get_state(), before)


# --- what must not matter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more"), [("mappo", {}), ("ippo", BOX), ("happo", {}), ("maipg", BOX), ("maipg", {"rvar_samples": 2})]
)
def test_padding_is_never_read(name: str, more: dict[str, Any]) -> None:
    one = session(name, epochs=2, **more)
    batch, other = collected(one), twin(one)
    assert int(batch.length.min()) < int(batch.length.max())
    metrics = [s.learner.update(Held(x), 0) for s, x in ((one, batch), (other, poisoned(batch)))]
    assert metrics[0].keys() == metrics[1].keys()
    for key in metrics[0]:
        torch.testing.assert_close(metrics[0][key], metrics[1][key], msg=key)
    for (key, a), b in zip(one.learner.named_parameters(), other.learner.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=key, atol=1e-5, rtol=1e-5)


def test_dead_agents_are_left_out() -> None:
    """By hand: agents with action 0 only; in a box, or without the option, everybody counts."""
    avail = torch.tensor([[[[1, 0, 0], [1, 1, 0]], [[0, 0, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]]]).bool()
    batch = EpisodeBatch(
        action=torch.zeros(1, 2, 2, dtype=torch.long),
        reward=torch.zeros(1, 2),
        terminated=torch.zeros(1, 2, dtype=torch.bool),
        mask=torch.ones(1, 2),
        length=torch.tensor([2]),
        obs=torch.zeros(1, 3, 2, 1),
        state=torch.zeros(1, 3, 1),
        avail=avail,
    )
    masked, all_in = PPOConfig(death_masking=True), PPOConfig(death_masking=False)
    assert active(batch, masked, True).tolist() == [[[0, 1], [1, 0]]]
    assert active(batch, all_in, True).tolist() == active(batch, masked, False).tolist() == [[[1, 1], [1, 1]]]


def test_the_dead_change_nothing() -> None:
    """Whatever a dead agent sees and whatever its advantage would be, the losses stay."""
    made, batch = ready("ippo", agent="mlp", recurrent=False, valuenorm_once=True)
    data = gathered(made, batch)
    dead = (data.mask[..., None] > 0) & (data.active == 0)
    assert dead.any()
    changed = {
        "obs": torch.where(dead[..., None], 9.0, data.obs),
        "advantage": torch.where(dead, 5.0, data.advantage),
        "returns": torch.where(dead, 5.0, data.returns),
    }
    moved(made)
    for loss in (lambda x: made.learner.policy_loss(x)[0], made.learner.value.loss):
        assert loss(dataclasses.replace(data, **changed)).item() == pytest.approx(loss(data).item(), abs=1e-6)


def test_standardised_advantages_and_no_gradient_in_what_is_constant() -> None:
    made, batch = ready("mappo")
    data = gathered(made, batch)
    chosen = data.advantage[data.active > 0]
    assert float(chosen.mean()) == pytest.approx(0, abs=1e-5)
    assert float(chosen.std(unbiased=False)) == pytest.approx(1, abs=1e-3)
    assert not any(getattr(data, f.name).requires_grad for f in dataclasses.fields(data))


# --- on policy --------------------------------------------------------------------------------------------------------


def test_every_episode_is_used_in_exactly_one_update() -> None:
    made = session("mappo", batch_size_run=4)
    assert not made.learner.ready(made.replay)
    collected(made)
    assert not made.learner.ready(made.replay)
    collected(made)
    assert made.learner.ready(made.replay)
    made.learner.update(made.replay, 0)
    assert not made.learner.ready(made.replay)
    collected(made)
    assert not made.learner.ready(made.replay)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size_run": 3}, "batch_size=8 must be a multiple of batch_size_run=3.*batch_size=9"),
        ({"updates_per_collect": 2}, "epochs"),
        ({"mac": "basic_mac"}, "policy_mac or gaussian_mac"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"mlp_layers": 0}, "mlp_layers must be at least 1"),
        ({"epsilon_start": 0.1}, "epsilon_start and epsilon_finish must be 0"),
        ({"critic": "coma"}, "critic 'coma' does not fit learner 'mappo'. Choose one of: ppo"),
    ],
)
def test_what_cannot_work_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        session("mappo", **more)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("happo", {"share_parameters": True}, "share_parameters=False"),
        ("maipg", {"nu": 1.5}, "nu must lie between 0 and 1"),
        ("maipg", {"mixer": "fop"}, "qmix, vdn or linear"),
        ("mappo", {"mac": "gaussian_mac"}, "policy_mac"),
        ("mappo", {"env_args": {"box": True}}, "gaussian_mac"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(name: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        session(name, **more)


# --- kinds of environments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_boxes_train_every_parameter(name: str) -> None:
    made = session(name, **BOX)
    before = {key: p.detach().clone() for key, p in made.learner.named_parameters()}
    batch = collected(made)
    drawn = batch.extras[UNCLIPPED]
    assert torch.equal(batch.action, drawn.clamp(-1, 1)) and (drawn.abs() > 1).any()
    for _ in range(2):
        assert all(x.isfinite().all() for x in made.learner.update(made.replay, 0).values())
    still = [k for k, p in made.learner.named_parameters() if torch.equal(p, before[k])]
    assert not still
    assert any("log_std" in key for key in before) or name == "happo"


@pytest.mark.parametrize("name", ["mappo", "maipg"])
def test_any_stochastic_policy_may_have_networks_of_its_own(name: str) -> None:
    made = session(name, share_parameters=False)
    before = {key: p.detach().clone() for key, p in made.controller.named_parameters()}
    learnt(made, 2)
    assert all(p.shape[0] == 3 for p in before.values())
    for key, p in made.controller.named_parameters():
        assert all(not torch.equal(p[i], before[key][i]) for i in range(3)), key


@pytest.mark.parametrize("name", FAMILY)
def test_unlike_agents(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AC-28: different numbers of actions and of observations, early ends and time limits."""
    monkeypatch.setitem(ENVS._classes, "unlike", toy_envs.Toy)
    made = learnt(session(name, env="unlike"), 2)
    assert all(p.isfinite().all() for p in made.learner.parameters())


def test_rewards_of_each_agents_own() -> None:
    """MAPPO and IPPO learn a value for each agent; a team's methods refuse."""
    for name in ("mappo", "ippo"):
        made = session(name, env_args={"individual": True}, chunk_length=1000)
        batch = collected(made)
        assert batch.reward.shape[-1] == 3
        data, oracle = gathered(made, batch), Oracle(made, batch)
        for e, t in oracle.places:
            assert data.returns[e, t].tolist() == pytest.approx([oracle.returns(e, t, m) for m in range(3)], abs=1e-4)
        assert not torch.equal(data.returns[..., 0], data.returns[..., 1])
        made.learner.update(made.replay, 0)
    for name in ("happo", "maipg"):
        with pytest.raises(ConfigError, match="one team reward"):
            session(name, env_args={"individual": True})
