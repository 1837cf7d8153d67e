"""Models of other agents against loops over observers, agents and steps; what they learn from, and what they learn."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from core.specs import ActionSpec, EnvSpec, EpisodeBatch, valid_mask
from learners.base import Metrics
from learners.modelling import Modelling, ModellingConfig
from learners.transitions import TransitionLearner
from memory.replay import Replay

N, A, LIMIT, K, H = 3, 4, 6, 3, 8
SPEC = EnvSpec((ActionSpec(A), ActionSpec(A - 1), ActionSpec(A)), (5, 3, 5), 1, LIMIT)
SMALL = {"moa_past": K, "moa_hidden": H, "moa_pairs": 30, "moa_batch": 40, "moa_trajectories": 6, "moa_subset": 4}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def episodes(lengths: list[int], seed: int = 0) -> EpisodeBatch:
    """Random ones: the second agent sees less and has an action fewer; zeros on padding, where all is available."""
    rng, b, t, length = generator(seed), len(lengths), max(lengths), torch.tensor(lengths)
    over, past = torch.arange(t) >= length[:, None], torch.arange(t + 1) > length[:, None]
    obs = torch.randn(b, t + 1, N, 5, generator=rng).masked_fill(past[..., None, None], 0)
    obs[:, :, 1, 3:] = 0
    avail = torch.rand(b, t + 1, N, A, generator=rng) < 0.5
    avail[:, :, 1, A - 1] = False
    action = torch.randint(A - 1, (b, t, N), generator=rng)
    avail[:, :t] |= one_hot(action, A).bool()
    avail[:, t, :, 0] = True
    return EpisodeBatch(
        action=action.masked_fill(over[..., None], 0),
        reward=torch.zeros(b, t),
        terminated=torch.zeros(b, t, dtype=torch.bool),
        mask=valid_mask(length, t),
        length=length,
        obs=obs,
        state=torch.zeros(b, t + 1, 1),
        avail=avail | past[..., None, None],
    )


def some(batch: EpisodeBatch, rows: list[int]) -> EpisodeBatch:
    """Some of the episodes."""
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "extras"}
    return EpisodeBatch(**{name: x[rows] for name, x in values.items()})


def filled(*batches: EpisodeBatch, capacity: int = 50, seed: int = 0) -> Replay:
    made = Replay(SPEC, capacity, 10**8, "cpu", generator(seed))
    for batch in batches:
        made.add(batch)
    return made


def modelling(seed: int = 0, spec: EnvSpec = SPEC, **more: Any) -> Modelling:
    """Its networks have preferences, and its code is not that of its beginning."""
    torch.manual_seed(seed)
    made = Modelling(spec, ModellingConfig(**{**SMALL, **more}), generator(seed))
    made.code.normal_()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(2)
    return made


class Descent:
    """What a learner does with the loss: one step of Adam; the losses and gradients are kept."""

    def __init__(self, of: nn.Module, lr: float = 1e-3) -> None:
        self.params, self.losses = list(of.parameters()), []
        self.optimiser = torch.optim.Adam(self.params, lr)

    def __call__(self, name: str, loss: Tensor) -> Metrics:
        assert name == "moa"
        self.losses.append(loss.detach())
        self.gradients = torch.autograd.grad(loss, self.params)
        for p, g in zip(self.params, self.gradients, strict=True):
            p.grad = g
        self.optimiser.step()
        return {"moa_loss": loss.detach()}


# --- the same by hand -------------------------------------------------------------------------------------------------


class ByHand:
    """Observer ``i`` as the formulas have it: one agent, one state and one step at a time."""

    def __init__(self, of: Modelling, i: int) -> None:
        self.code = of.code[0 if of.cfg.moa_share else i]
        self.net = {name: self._alone(getattr(of.models, f"{name}_net"), i) for name in ("natural", "impromptu")}
        self.mental, self.character = (
            self._history(getattr(of.models, f"{x}_net"), i) for x in ("mental", "character")
        )

    @staticmethod
    def _alone(copies: nn.Module, i: int) -> nn.Module:
        if copies.share:
            return copies.net
        one = copy.deepcopy(copies.net.example)
        one.load_state_dict({name: x[i] for name, x in copies.net.state().items()})
        return one

    def _history(self, copies: nn.Module, i: int) -> tuple[nn.Module, nn.GRU]:
        """The first layer, and torch's own two recurrent ones."""
        one, gru = self._alone(copies, i), nn.GRU(H, H, num_layers=2)
        for layer, encoder in enumerate((one.first, one.second)):
            for name, x in encoder.rnn.state_dict().items():
                gru.get_parameter(name.replace("l0", f"l{layer}")).data.copy_(x)
        return one.first.embed, gru

    @staticmethod
    def _number(j: int) -> Tensor:
        return torch.eye(N)[j]

    def _after(self, net: tuple[nn.Module, nn.GRU], inputs: list[Tensor]) -> Tensor:
        embed, gru = net
        return gru(torch.stack([embed(x) for x in inputs]))[0][-1]

    def _known(self, batch: EpisodeBatch, row: int, t: int, j: int) -> Tensor:
        return torch.cat([batch.obs[row, t, j], one_hot(batch.action[row, t, j], A).float(), self._number(j)])

    def character_of(self, batch: EpisodeBatch, j: int) -> Tensor:
        rows = [(row, int(length)) for row, length in enumerate(batch.length)]
        return torch.stack(
            [self._after(self.character, [self._known(batch, row, t, j) for t in range(n)]) for row, n in rows]
        ).mean(0)

    def logits(
        self, batch: EpisodeBatch, row: int, t: int, j: int, code: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        empty = torch.zeros(5 + A + N)
        past = [self._known(batch, row, u, j) if u >= 0 else empty for u in range(t - K, t)]
        see = torch.cat([batch.obs[row, t, j], self._number(j)])
        like = self.code[j] if code is None else code
        natural = self.net["natural"](torch.cat([see, like, self._after(self.mental, past)]))
        return [natural, self.net["impromptu"](see)]

    def log_pi(self, batch: EpisodeBatch, row: int, t: int, j: int) -> Tensor:
        natural, impromptu = self.logits(batch, row, t, j)
        return torch.where(batch.avail[row, t, j], natural + impromptu, -torch.inf).log_softmax(-1)


def close(log_pi: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(log_pi.exp(), wanted.exp(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
@torch.no_grad()
def test_predictions_equal_those_of_a_loop(share: bool) -> None:
    """Over observers, agents, episodes and states; no observer is like another where they share nothing."""
    made, batch = modelling(moa_share=share), episodes([5, 1, 3])
    got = made.predict(batch)
    assert got.shape == (3, 6, N, N, A) and not got.requires_grad
    for i in range(N):
        hand = ByHand(made, i)
        for row, length in enumerate(batch.length.tolist()):
            for t in range(length + 1):
                wanted = torch.stack([hand.log_pi(batch, row, t, j) for j in range(N)])
                close(got[row, t, i], wanted)
    assert torch.equal(got[..., 0, :, :], got[..., 1, :, :]) == share
    assert not got.exp()[~batch.avail[:, :, None].expand_as(got)].any()


@pytest.mark.parametrize("share", [True, False])
@torch.no_grad()
def test_characters_equal_those_of_a_loop(share: bool) -> None:
    """Means of the states after the last real step, be the trajectories short or long."""
    made, batch = modelling(moa_share=share), episodes([5, 1, 3, 4])
    got = made.models.character(batch.obs[:, :-1], batch.action, batch.length)
    for i in range(got.shape[0]):
        hand = ByHand(made, i)
        torch.testing.assert_close(got[i], torch.stack([hand.character_of(batch, j) for j in range(N)]))


def test_sharing_is_having_the_same_weights() -> None:
    shared, private, batch = modelling(), modelling(1, moa_share=False), episodes([5, 1, 3])
    for own, theirs in zip(private.parameters(), shared.parameters(), strict=True):
        own.data.copy_(theirs.expand_as(own))
    private.code.copy_(shared.code.expand_as(private.code))
    close(private.predict(batch), shared.predict(batch))


def test_some_of_the_states() -> None:
    made, batch = modelling(), episodes([5, 1, 3])
    torch.testing.assert_close(made.predict(batch, slice(1, None)), made.predict(batch)[:, 1:])
    torch.testing.assert_close(made.predict(batch, slice(0, 1)), made.predict(batch)[:, :1])


def test_blocks_of_a_batch_are_predicted_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = modelling(moa_share=False), episodes([5, 1, 3, 2, 4])
    whole = made.predict(batch)
    monkeypatch.setattr("learners.modelling._AT_ONCE", 2 * N * 6)
    torch.testing.assert_close(made.predict(batch), whole)


# --- what predictions may depend on -----------------------------------------------------------------------------------


def test_single_steps_are_predicted_as_in_their_episodes() -> None:
    """So what an agent did in an episode is forgotten at its end, and the state after a step remembers the step."""
    stored = episodes([5, 1, 3, 6, 2])
    replay, made = filled(stored), modelling()
    whole, batch = made.predict(stored), replay.transitions(60, past=K)
    got = made.predict(batch)
    for row in range(60):
        episode, t = ((stored.obs[:, :-1] == batch.obs[row, :1]).all(-1).all(-1)).nonzero()[0].tolist()
        close(got[row], whole[episode, t : t + 2])


def test_only_the_last_steps_count() -> None:
    """At state 5 with a memory of 3: step 1 is forgotten, step 2 is not."""
    made, batch = modelling(), episodes([6])
    before = made.predict(batch)[:, 5]
    for t, changes in ((1, False), (2, True)):
        obs, action = batch.obs.clone(), batch.action.clone()
        obs[:, t], action[:, t] = 7.0, (action[:, t] + 1) % (A - 1)
        for changed in (dataclasses.replace(batch, obs=obs), dataclasses.replace(batch, action=action)):
            assert torch.equal(made.predict(changed)[:, 5], before) != changes


def test_an_agent_is_predicted_from_its_own_data_alone() -> None:
    made, batch = modelling(), episodes([6])
    obs, action = batch.obs.clone(), batch.action.clone()
    obs[:, :, 0], action[:, :, 0] = 7.0, 2
    before, after = made.predict(batch), made.predict(dataclasses.replace(batch, obs=obs, action=action))
    assert torch.equal(before[..., 1:, :], after[..., 1:, :])
    assert not torch.equal(before[..., 0, :], after[..., 0, :])


def poisoned(batch: EpisodeBatch) -> EpisodeBatch:
    """NaN and impossible actions wherever nothing happened."""
    past, over = torch.arange(batch.obs.shape[1]) > batch.length[:, None], batch.mask == 0
    obs, action = batch.obs.masked_fill(past[..., None, None], torch.nan), batch.action.masked_fill(over[..., None], 77)
    return dataclasses.replace(batch, obs=obs, action=action)


def test_other_episodes_are_never_read() -> None:
    """NaN surrounds the episode that is learned from and predicted."""
    clean, nan = episodes([3], seed=4), dataclasses.replace(episodes([2]), obs=episodes([2]).obs * torch.nan)
    losses = []
    for replay in (filled(clean), filled(nan, clean)):
        made = modelling(moa_pairs=3)
        made.seen = replay.added - 1  # so that the first episode is no trajectory to learn from
        metrics = made.learn(replay, Descent(made))
        losses.append([metrics[name] for name in ("moa_loss", "moa_accuracy", "moa_ce")])
    assert all(torch.equal(x, y) for x, y in zip(*losses, strict=True))
    steps = filled(nan, clean, nan).transitions(200, past=K)
    fine = steps.obs.isfinite().flatten(1).all(1)
    assert 0 < int(fine.sum()) < 200
    assert modelling().predict(steps)[fine].isfinite().all()


def test_poisoned_padding_leaves_learning_as_it_is() -> None:
    ends = []
    for change in (lambda x: x, poisoned):
        made, replay = modelling(), filled(*(change(episodes([6, 2, 1, 5], seed)) for seed in range(3)))
        descend = Descent(made)
        for _ in range(3):
            made.learn(replay, descend)
        ends.append([*made.parameters(), made.code, made.online])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# --- what is learned, and of what -------------------------------------------------------------------------------------


def others(share: bool) -> list[tuple[int, int]]:
    """Observers and the agents that they model; one set of models stands for all observers."""
    return [(i, j) for i in range(1 if share else N) for j in range(N) if share or i != j]


def choices(batch: EpisodeBatch, steps: list[tuple[int, int]], share: bool) -> list[tuple[int, int, int, int]]:
    """Every step, observer and modelled agent, where that agent has a choice."""
    pairs = [(row, t, i, j) for row, t in steps for i, j in others(share)]
    return [(row, t, i, j) for row, t, i, j in pairs if batch.avail[row, t, j].sum() > 1]


@pytest.mark.parametrize("share", [True, False])
def test_the_loss_equals_that_of_a_loop_over_the_draws(share: bool) -> None:
    """Of the newest 7 of 10 steps, 12 are drawn with replacement; by the codes of 2 of 3 trajectories."""
    keys = {"moa_share": share, "moa_pairs": 7, "moa_batch": 12, "moa_subset": 2}
    batch, made = episodes([5, 2, 3]), modelling(**keys)
    rng, descend = copy.deepcopy(made.rng), Descent(made)
    hands = [ByHand(made, i) for i in range(1 if share else N)]
    subset = torch.randperm(3, generator=rng)[:2].tolist()
    newest = [(0, 3), (0, 4), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    drawn = [newest[k] for k in torch.randint(7, (12,), generator=rng).tolist()]
    half = some(dataclasses.replace(batch, obs=batch.obs.half().float()), subset)
    codes = {(i, j): hands[i].character_of(half, j) for i, j in others(share)}

    def ce(steps: list[tuple[int, int]], weights: tuple[float, float]) -> Tensor:
        total = []
        for row, t, i, j in choices(batch, steps, share):
            parts = hands[i].logits(batch, row, t, j, codes[i, j])
            logits = sum(w * x for w, x in zip(weights, parts, strict=True))
            total.append(
                cross_entropy(torch.where(batch.avail[row, t, j], logits, -torch.inf), batch.action[row, t, j])
            )
        return torch.stack(total).mean()

    wanted = ce(drawn, (1, 0)) + ce(newest, (0, 1)) + ce(drawn, (1, 1))
    metrics = made.learn(filled(batch), descend)
    torch.testing.assert_close(metrics["moa_loss"], wanted.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
@torch.no_grad()
def test_metrics_are_of_predictions_before_anything_was_learned(share: bool) -> None:
    """The first call sees three episodes; the second one a new one; the third none, and says the same again."""
    made, replay = modelling(moa_share=share), filled(episodes([5, 2, 3]))
    seen = [episodes([5, 2, 3]), episodes([4], seed=7), episodes([4], seed=7)]
    reports = []
    for number, batch in enumerate(seen):
        if number == 1:
            replay.add(batch)
        log_pi = made.predict(batch)
        steps = [(row, t) for row, length in enumerate(batch.length.tolist()) for t in range(length)]
        places = choices(batch, steps, share)
        of = torch.stack([log_pi[row, t, i, j] for row, t, i, j in places])
        action = torch.stack([batch.action[row, t, j] for row, t, _, j in places])
        n = torch.stack([batch.avail[row, t, j].sum() for row, t, _, j in places])
        wanted = torch.stack([(of.argmax(-1) == action).float().mean(), cross_entropy(of, action), n.log().mean()])
        with torch.enable_grad():
            metrics = made.learn(replay, Descent(made, lr=0.05))
        reports.append(torch.stack([metrics[f"moa_{name}"] for name in ("accuracy", "ce", "ce_uniform")]))
        if number < 2:
            torch.testing.assert_close(reports[-1], wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(reports[1], reports[2]) and not torch.equal(reports[0], reports[1])


def test_an_observer_learns_nothing_of_itself() -> None:
    """Whatever agent 0 sees and does: the gradient of its own models is the same, that of the others' is not."""
    gradients = []
    for change in (0, 1):
        batch = episodes([6, 6])
        obs, avail = batch.obs.clone(), torch.ones_like(batch.avail)
        obs[:, :, 0] += change
        made = modelling(moa_share=False)
        descend = Descent(made)
        made.learn(filled(dataclasses.replace(batch, obs=obs, avail=avail)), descend)
        gradients.append(descend.gradients)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one[0], other[0])
    assert all(any(not torch.equal(one[i], other[i]) for one, other in zip(*gradients, strict=True)) for i in (1, 2))


@pytest.mark.parametrize("share", [True, False])
def test_every_parameter_learns(share: bool) -> None:
    made = modelling(moa_share=share)
    descend = Descent(made)
    made.learn(filled(episodes([6, 6, 6])), descend)
    for (name, _), gradient in zip(made.named_parameters(), descend.gradients, strict=True):
        assert gradient.flatten(1).any(1).all() if not share else gradient.any(), name


def test_no_gradient_passes_through_predictions() -> None:
    """Neither into the models nor, of what others optimise, into the data."""
    made, batch = modelling(), episodes([6, 2])
    obs = batch.obs.clone().requires_grad_()
    log_pi = made.predict(dataclasses.replace(batch, obs=obs))
    assert not log_pi.requires_grad
    assert torch.autograd.grad((log_pi.exp().sum() + obs.sum()), [obs, *made.parameters()], allow_unused=True)[1:] == (
        None,
    ) * len([*made.parameters()])


def test_the_first_episodes_ever_collected_are_the_trajectories() -> None:
    """Four of them, though later ones come and the first ones leave the replay; their lengths are their own."""
    made, replay, first = modelling(moa_trajectories=4), filled(capacity=3), episodes([2, 5, 1, 4, 3])
    descend = Descent(made)
    for rows in ([0], [1, 2], [3, 4], [0, 1]):
        replay.add(some(first, rows))
        made.learn(replay, descend)
    obs, action, length = made.trajectories.take([0, 1, 2, 3])
    assert len(made.trajectories) == 4 and length.tolist() == [2, 5, 1, 4]
    assert torch.equal(obs, first.obs[:4, :5].half().float() * first.mask[:4, :, None, None])
    assert torch.equal(action, first.action[:4])


def test_episodes_that_left_the_replay_before_are_missed() -> None:
    made, replay = modelling(), filled(episodes([2, 5, 1, 4, 3]), capacity=3)
    made.learn(replay, Descent(made))
    assert made.trajectories.take(list(range(len(made.trajectories))))[2].tolist() == [1, 4, 3]


def test_observations_too_large_for_half_precision_stay_finite() -> None:
    made, batch = modelling(), episodes([3])
    made.learn(filled(dataclasses.replace(batch, obs=batch.obs * 1e6)), Descent(made))
    assert made.trajectories.take([0])[0].isfinite().all()


def test_when_the_code_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 1, 2 and 4 steps, and then every five: of all trajectories, whatever the size of a block."""
    monkeypatch.setattr("learners.modelling._TRAJECTORIES_AT_ONCE", 2)
    made, replay, anew = modelling(moa_refresh=5), filled(episodes([2, 5, 1, 4, 3])), []
    descend = Descent(made, lr=0.01)
    for call in range(1, 12):
        before = made.code.clone()
        made.learn(replay, descend)
        if not torch.equal(made.code, before):
            anew.append(call)
            every = made.trajectories.take([0, 1, 2, 3, 4])
            torch.testing.assert_close(made.code, made.models.character(*every).detach())
    assert anew == [1, 2, 4, 5, 10]


def test_a_period_of_updates() -> None:
    made = modelling(moa_period=3)
    replay, descend = filled(episodes([6, 4])), Descent(made)
    assert [bool(made.learn(replay, descend)) for _ in range(7)] == [False, False, True, False, False, True, False]
    assert len(descend.losses) == made.trained == 2


@pytest.mark.parametrize("share", [True, False])
def test_the_state_continues_exactly(share: bool) -> None:
    """While trajectories are still collected, and between two codes: predictions, losses, metrics, parameters."""
    one, replay = modelling(moa_share=share, moa_refresh=3), filled(episodes([6, 2]))
    descend = Descent(one)
    for seed in (1, 2):
        one.learn(replay, descend)
        replay.add(episodes([seed, 4], seed))
    state, adam, rng = (copy.deepcopy(x) for x in (one.state_dict(), descend.optimiser.state_dict(), one.rng))
    two = modelling(seed=9, moa_share=share, moa_refresh=3)
    two.load_state_dict(state)
    two.rng = rng
    again = Descent(two)
    again.optimiser.load_state_dict(adam)
    replays = replay, copy.deepcopy(replay)
    for seed in range(3, 7):
        reports = [m.learn(r, d) for m, r, d in zip((one, two), replays, (descend, again), strict=True)]
        assert all(torch.equal(reports[0][name], reports[1][name]) for name in reports[0])
        assert torch.equal(one.predict(episodes([5, 3])), two.predict(episodes([5, 3])))
        for each in replays:
            each.add(episodes([3], seed))
    assert len(one.trajectories) == len(two.trajectories) == 6
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_new_state_can_be_saved_and_loaded() -> None:
    one, two = modelling(), modelling(1)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.predict(episodes([3])), two.predict(episodes([3])))
    assert len(two.trajectories) == 0


def test_only_its_own_generator_decides() -> None:
    ends = []
    for seed in (1, 1, 2):
        made = modelling()
        made.rng = generator(seed)
        torch.manual_seed(len(ends))
        made.learn(filled(episodes([6, 2])), Descent(made))
        ends.append(torch.cat([p.flatten() for p in made.parameters()]))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("key", ["hidden", "past", "trajectories", "subset", "refresh", "pairs", "batch", "period"])
def test_numbers_that_cannot_be_meant(key: str) -> None:
    with pytest.raises(ValueError, match=f"moa_{key} must be at least 1, not 0"):
        ModellingConfig(**{f"moa_{key}": 0})


def test_values_are_checked_where_it_is_one_of_several_bases() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Both(ModellingConfig, TransitionLearner.Config):
        pass

    with pytest.raises(ValueError, match="moa_past"):
        Both(moa_past=0)
    with pytest.raises(ValueError, match="batch_size"):
        Both(batch_size=0)


# --- AC-23: agents that follow a script -------------------------------------------------------------------------------

SCRIPTED = EnvSpec((ActionSpec(A),) * N, (5,) * N, 1, 8)


def scripted(rng: torch.Generator, b: int = 12) -> EpisodeBatch:
    """Every step shows each agent an action. The first agent takes it at first, and then always the next one in turn;
    the second takes what it is shown; the third what it was shown two steps before, and at first action A - 1.
    """
    batch = episodes(torch.randint(3, 9, (b,), generator=rng).tolist())
    sign = torch.randint(A, batch.obs.shape[:3], generator=rng)
    shown, t = sign[:, :-1], torch.arange(batch.action.shape[1])
    action = torch.stack([(shown[:, :1, 0] + t) % A, shown[..., 1], shown[..., 2].roll(2, 1)], -1)
    action[:, :2, 2] = A - 1
    obs = one_hot(sign, batch.obs.shape[-1]).float()
    return poisoned(dataclasses.replace(batch, obs=obs, action=action, avail=torch.ones_like(batch.avail)))


def learned(updates: int, lr: float, **keys: Any) -> list[Metrics]:
    """The metrics of every update; each sees 12 new episodes."""
    torch.manual_seed(0)
    made = Modelling(SCRIPTED, ModellingConfig(**keys), generator())
    rng, replay, descend = generator(1), Replay(SCRIPTED, 5000, 10**8, "cpu", generator(2)), Descent(made, lr)
    every = []
    for _ in range(updates):
        replay.add(scripted(rng))
        every.append(made.learn(replay, descend))
    return every


def accurate(every: list[Metrics]) -> None:
    """AC-23, of the last ten updates' new episodes; at first nothing is known."""
    accuracy, ce = (torch.stack([m[f"moa_{name}"] for m in every]) for name in ("accuracy", "ce"))
    assert accuracy[0] < 0.5 and accuracy[-10:].mean() > 0.95
    assert ce[-10:].mean() < 0.25 * torch.tensor(A).log()
    torch.testing.assert_close(every[-1]["moa_ce_uniform"], torch.tensor(float(A)).log())


def test_scripted_agents_are_predicted() -> None:
    few = {"moa_pairs": 120, "moa_batch": 160, "moa_past": 3, "moa_subset": 4, "moa_trajectories": 16}
    accurate(learned(60, 0.02, moa_hidden=32, **few))


@pytest.mark.slow
@pytest.mark.parametrize(("share", "pairs"), [(True, 1200), (False, 300)])
def test_scripted_agents_are_predicted_with_the_defaults(share: bool, pairs: int) -> None:
    """The private models on fewer steps, for the sake of time."""
    accurate(learned(300, 1e-3, moa_share=share, moa_pairs=pairs, moa_batch=pairs * 4 // 3))
