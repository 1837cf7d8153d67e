"""DOP with communication: who hears whom and when, the messages' losses by hand, and where gradients go."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from by_hand import LENGTHS, TERMINATED, A, N, batch, best_of, fitted, gradients, legal, session
from controllers.comm_mac import NOISE
from core.config import ConfigError
from core.specs import EpisodeBatch
from modules.messages import delivered, kl_to_standard_normal
from run import Session

M, OBS = 2, 6
WHOLE = slice(None)


def talking(**more: object) -> Session:
    """A session whose messages say much."""
    made = session("dop_comm", message_dim=M, message_hidden_dim=8, **more)
    with torch.no_grad():
        for p in made.controller.parameters():
            p.mul_(3)
    return made


def noisy(data: EpisodeBatch | None = None) -> EpisodeBatch:
    """Random episodes with the noise that a controller would have stored."""
    data = batch() if data is None else data
    rng = torch.Generator().manual_seed(9)
    noise = torch.randn(*data.action.shape, N, M, generator=rng) * data.mask[..., None, None, None]
    return dataclasses.replace(data, extras=data.extras | {NOISE: noise})


def heard(made: Session, data: EpisodeBatch | None = None) -> EpisodeBatch:
    """As the learner reads it; the noise of last states is the same at every call."""
    return made.controller.hear(noisy() if data is None else data, torch.Generator().manual_seed(4))


def changed(old: Tensor, new: Tensor, axes: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Indices along ``axes`` at which anything is different."""
    others = [axis for axis in range(old.dim()) if axis not in axes]
    return {tuple(at) for at in (old != new).permute(*axes, *others).flatten(len(axes)).any(-1).nonzero().tolist()}


def with_noise(data: EpisodeBatch, noise: Tensor) -> EpisodeBatch:
    return dataclasses.replace(data, extras=data.extras | {NOISE: noise})


# ---------------------------------------------------------------- who hears what, and when


def test_messages_are_delivered_in_the_order_of_their_senders() -> None:
    message = torch.tensor([[[10 * i + j + k / 10 for k in range(M)] for j in range(N)] for i in range(N)])
    assert delivered(message[None, None])[0, 0].tolist() == [
        pytest.approx([10 * i + j + k / 10 for i in range(N) for k in range(M)]) for j in range(N)
    ]


@pytest.mark.parametrize(("sender", "receiver"), [(0, 2), (2, 0), (1, 1)])
def test_a_message_reaches_its_receiver_alone(sender: int, receiver: int) -> None:
    made = talking(agent="mlp")
    data = heard(made)
    noise = data.extras[NOISE].clone()
    noise[:, :, sender, receiver] += 1
    other = with_noise(data, noise)
    pairs = changed(made.controller.exchange(data).heard.unflatten(-1, (N, M)), _messages(made, other), (2, 3))
    assert pairs == {(receiver, sender)}
    assert changed(made.controller.unroll(data)[:, :1], made.controller.unroll(other)[:, :1], (2,)) == {(receiver,)}


def _messages(made: Session, data: EpisodeBatch) -> Tensor:
    """What is heard, [b, t, receiver, sender, M]."""
    return made.controller.exchange(data).heard.unflatten(-1, (N, M))


def test_what_an_agent_sees_changes_only_what_it_says() -> None:
    made = talking()
    data = heard(made)
    obs = data.obs.clone()
    obs[:, :, 1, :OBS] += 1
    other = dataclasses.replace(data, obs=obs)
    assert changed(_messages(made, data), _messages(made, other), (2, 3)) == {(j, 1) for j in range(N)}


@pytest.mark.parametrize("agent", ["rnn", "mlp"])
def test_messages_follow_from_the_same_step_only(agent: str) -> None:
    made = talking(agent=agent)
    data = heard(made)
    obs, action = data.obs.clone(), data.action.clone()
    obs[:, 1, :, :OBS] += 1
    assert changed(_messages(made, data), _messages(made, dataclasses.replace(data, obs=obs)), (1,)) == {(1,)}
    action[:, 1] = (action[:, 1] + 1) % A
    assert changed(_messages(made, data), _messages(made, dataclasses.replace(data, action=action)), (1,)) == {(2,)}


def test_without_the_last_action_nothing_is_remembered() -> None:
    made = talking(agent="mlp", last_action=False)
    data = heard(made)
    other = dataclasses.replace(data, action=(data.action + 1) % A)
    assert torch.equal(made.controller.unroll(data), made.controller.unroll(other))
    other = dataclasses.replace(data, obs=data.obs + 1)
    assert changed(_messages(made, data), _messages(made, other), (2,)) == {(j,) for j in range(N)}


# ---------------------------------------------------------------- what was heard is what is learnt from


@pytest.mark.parametrize("share_parameters", [True, False])
@pytest.mark.parametrize("agent", ["rnn", "mlp"])
def test_losses_hear_what_was_heard(agent: str, share_parameters: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = talking(agent=agent, share_parameters=share_parameters, batch_size_run=4)
    outputs: list[Tensor] = []
    explore = made.controller.explore
    monkeypatch.setattr(made.controller, "explore", lambda out, *rest: outputs.append(out) or explore(out, *rest))
    episodes = made.runner.collect(t_env=0, mode="explore").episodes
    made.replay.add(episodes)
    logits = made.controller.unroll(made.learner.read(made.replay.latest(4)))[:, :-1]
    played = episodes.mask > 0
    torch.testing.assert_close(logits[played], torch.stack(outputs, 1)[played])
    silent = with_noise(heard(made, episodes), torch.zeros_like(heard(made, episodes).extras[NOISE]))
    assert not torch.allclose(made.controller.unroll(silent)[:, :-1][played], logits[played])


def test_noise_is_kept_where_agents_acted_and_drawn_at_last_states() -> None:
    made = talking()
    data = noisy(batch((2, 3, 1, 3) * 500, (False,) * 2000))
    noise = made.controller.hear(data, torch.Generator().manual_seed(1)).extras[NOISE]
    for row, length in enumerate((2, 3, 1, 3)):
        assert torch.equal(noise[row, :length], data.extras[NOISE][row, :length])
    fresh = noise[torch.arange(2000), data.length]
    assert abs(float(fresh.mean())) < 4 / fresh.numel() ** 0.5
    assert abs(float(fresh.var()) - 1) < 4 * (2 / fresh.numel()) ** 0.5
    assert len(fresh.flatten(1).unique(dim=0)) == 2000, "every episode has its own"


@pytest.mark.parametrize("mode", ["explore", "test"])
def test_the_noise_comes_from_the_handed_generator(mode: str) -> None:
    made = talking()
    step, hidden = made.env.reset(), made.controller.initial_hidden(4)

    def noise(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return made.controller.act(step, torch.zeros(4, N, A), hidden, t_env=0, mode=mode, rng=rng).extras[NOISE]

    torch.manual_seed(0)
    first = noise(1)
    assert torch.equal(first, noise(1))
    assert not torch.equal(first, noise(2))
    assert first.shape == (4, N, N, M) and len(first.unique()) == first.numel()


# ---------------------------------------------------------------- losses


def test_message_losses_by_hand() -> None:
    made = talking()
    learner, data = made.learner, heard(made)
    mean = learner.controller.exchange(data).mean
    q = learner.target.slow.local(data.state, data.obs)
    total = torch.zeros(3)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            best = best_of(q[row, t].tolist(), legal(data, row, t))
            for j in range(N):
                said = torch.stack([mean[row, t, i, j] + data.extras[NOISE][row, t, i, j] for i in range(N)])
                last = torch.zeros(A)
                if t:
                    last[data.action[row, t - 1, j]] = 1
                x = torch.cat([data.obs[row, t, j, :OBS], last, torch.eye(N)[j], said.flatten()])
                guess = Normal(mean[row, t, :, j], 1.0), Normal(torch.zeros(N, M), 1.0)
                total[0] -= torch.softmax(learner.controller.messages.posterior(x), -1)[best[j]].log()
                total[1] += kl_divergence(*guess).sum()
                total[2] -= guess[1].log_prob(said).sum()
    found = torch.stack(learner.message_losses(data))
    torch.testing.assert_close(found, total / (sum(LENGTHS) * N))


def test_best_actions_are_those_of_the_slow_critic() -> None:
    made = talking()
    data = heard(made)
    before = made.learner.message_losses(data)[0]
    with torch.no_grad():
        made.learner.critic.head.weight.neg_()
        assert torch.equal(made.learner.message_losses(data)[0], before)
        made.learner.target.slow.head.weight.neg_()
    assert not torch.equal(made.learner.message_losses(data)[0], before)


def test_kl_by_hand() -> None:
    mean = torch.zeros(1, 1, 2, 2, 2)
    mean[0, 0, 0, 1] = torch.tensor([1.0, 2.0])  # from 0 to 1: (1 + 4) / 2
    mean[0, 0, 1, 1] = torch.tensor([3.0, 0.0])  # from 1 to itself: 9 / 2
    assert kl_to_standard_normal(mean)[0, 0].tolist() == [0.0, 7.0]


def test_the_regulariser_is_weighed() -> None:
    losses = []
    for weights in ({"message_loss": 0.0}, {"message_loss": 0.5, "message_kl": 0.3, "message_entropy": 0.2}):
        made = talking(**weights)
        data = heard(made)
        parts = [x.item() for x in made.learner.message_losses(data)]
        losses.append(float(made.learner.learn_policy(data, 0)["policy_loss"]))
    assert losses[1] - losses[0] == pytest.approx(0.5 * (parts[0] + 0.3 * parts[1] + 0.2 * parts[2]), rel=1e-4)


# ---------------------------------------------------------------- gradients


def parts_reached(made: Session, loss: Tensor) -> set[str]:
    """Parts of the controller that a loss moves."""
    names = gradients(loss, made.controller)
    return {name.split(".")[1] if name.startswith("messages.") else "agent" for name in names}


def test_where_gradients_go() -> None:
    made = talking()
    learner = made.learner
    data = learner.read(noisy())
    y = torch.zeros(len(LENGTHS), 3)
    critic = learner.critic_loss(fitted(data, y, data, y), WHOLE)
    assert parts_reached(made, critic) == set() and gradients(critic, learner.critic)
    policy = learner.policy_loss(data, 0)
    assert parts_reached(made, policy) == {"agent", "encoder"} and not gradients(policy, learner.critic)
    cross_entropy, kl, entropy = learner.message_losses(data)
    assert parts_reached(made, cross_entropy) == {"encoder", "posterior"}
    assert parts_reached(made, kl) == parts_reached(made, entropy) == {"encoder"}
    assert not gradients(cross_entropy + kl + entropy, learner.critic)


@pytest.mark.parametrize(
    ("comm_grad", "by_policies", "by_critic"),
    [("actor", True, False), ("critic", False, True), ("both", True, True)],
)
def test_whose_loss_trains_the_encoder(comm_grad: str, by_policies: bool, by_critic: bool) -> None:
    made = talking(comm_grad=comm_grad, message_loss=0.0)
    learner, encoder = made.learner, made.controller.messages.encoder[-1].bias
    data, rng = learner.read(noisy()), learner.rng.get_state()
    policies = torch.autograd.grad(learner.policy_loss(data, 0), encoder, allow_unused=True)[0]
    assert (policies is not None) == by_policies
    (critic,) = torch.autograd.grad(learner.hearing_loss(data, 0), encoder)
    wanted = torch.zeros_like(critic) + (policies if by_policies else 0) + (critic if by_critic else 0)
    learner.rng.set_state(rng)
    learner.learn_policy(data, 0)
    clipped = encoder.grad / encoder.grad.norm()
    torch.testing.assert_close(clipped, wanted / wanted.norm(), rtol=1e-3, atol=1e-5)


def test_the_encoder_learns_from_the_critics_own_loss() -> None:
    made = talking(comm_grad="both", kappa=0.0)
    learner, data = made.learner, heard(made)
    rng = learner.rng.get_state()
    found = learner.hearing_loss(data, 0)
    learner.rng.set_state(rng)
    y = learner.on_policy_target(data, 0)
    torch.testing.assert_close(found, learner.critic_loss(fitted(data, y, data, y), WHOLE))
    assert parts_reached(made, found) == {"encoder"}


def test_the_policies_loss_moves_the_encoder_as_differences_say(monkeypatch: pytest.MonkeyPatch) -> None:
    made = talking(agent="mlp")
    advantage = torch.randn(len(LENGTHS), 3, N, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(made.learner.critic, "advantage", lambda *_: advantage)
    data, bias, step = heard(made), made.controller.messages.encoder[-1].bias, 3e-3

    def loss(k: int, change: float) -> float:
        with torch.no_grad():
            bias[k] += change
            value = made.learner.policy_loss(data, 0).item()
            bias[k] -= change
        return value

    (gradient,) = torch.autograd.grad(made.learner.policy_loss(data, 0), bias)
    differences = [(loss(k, step) - loss(k, -step)) / (2 * step) for k in range(N * M)]
    assert gradient.tolist() == pytest.approx(differences, rel=0.03, abs=3e-4)
    assert gradient.abs().max() > 0.02


# ---------------------------------------------------------------- beside DOP


def without_messages(weight: Tensor, before: int) -> Tensor:
    """A first layer's weights without the columns that read messages, which follow the first ``before``."""
    return torch.cat([weight[:, :before], weight[:, before + N * M :]], 1)


def test_silence_is_dop() -> None:
    made, plain = talking(agent="mlp"), session("dop", agent="mlp")
    with torch.no_grad():
        made.controller.messages.encoder[-1].weight.zero_()
        made.controller.messages.encoder[-1].bias.zero_()
    agent = made.controller.agent.state_dict()
    agent["encoder.net.0.0.weight"] = without_messages(agent["encoder.net.0.0.weight"], OBS)
    plain.controller.agent.load_state_dict(agent)
    critic = made.learner.critic.state_dict()
    critic["body.0.0.weight"] = without_messages(critic["body.0.0.weight"], made.env.spec.state_dim + OBS)
    plain.learner.critic.load_state_dict(critic)
    data = heard(made)
    silent = with_noise(data, torch.zeros_like(data.extras[NOISE]))
    silent = dataclasses.replace(silent, obs=torch.cat([data.obs[..., :OBS], torch.zeros(4, 4, N, N * M)], -1))
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = made.learner.critic_loss(fitted(silent, y, silent, y), WHOLE), made.learner.policy_loss(silent, 0)
    wanted = plain.learner.critic_loss(fitted(batch(), y, batch(), y), WHOLE), plain.learner.policy_loss(batch(), 0)
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted))
    assert not torch.allclose(made.learner.policy_loss(data, 0), wanted[1]), "noise alone is heard"


@pytest.mark.parametrize(
    ("name", "keys", "says"),
    [
        ("dop", {"mac": "comm_mac"}, "'mac' is 'comm_mac', but dop learns no messages"),
        ("dop_comm", {"mac": "policy_mac"}, "'mac' is 'policy_mac', but dop_comm needs mac=comm_mac"),
        ("dop", {"mac": "basic_mac", "epsilon_start": 1.0}, "'mac' is 'basic_mac', but dop needs mac=policy_mac"),
        ("dop_comm", {"critic": "joint", "mixer": None}, "critic 'joint' does not fit learner 'dop_comm'"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, keys: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        session(name, **keys)


def test_episodes_cut_by_the_time_limit_look_ahead_on_messages() -> None:
    made = talking()
    data = heard(made)
    noise = data.extras[NOISE].clone()
    for row, length in enumerate(LENGTHS):
        noise[row, length] += 1
    other = dataclasses.replace(with_noise(data, noise), obs=data.obs.clone())
    with torch.no_grad():
        other.obs[..., OBS:] = made.controller.exchange(other).heard
    rows = changed(*(made.learner.off_policy_target(x, 0) for x in (data, other)), (0,))
    assert rows == {(row,) for row, ended in enumerate(TERMINATED) if not ended}
