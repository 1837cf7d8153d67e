"""Sessions and batches for the tests of the PPO family, and a plain-Python account of what its updates start from."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import toy  # noqa: F401 - registers the environment
from core.config import load, merge, resolve
from core.specs import EpisodeBatch, valid_mask
from memory.replay import Replay
from modules.layers import last_actions
from run import Session, build

ALGS = Path(__file__).parents[1] / "config" / "algs"
FAMILY = ["mappo", "ippo", "happo", "maipg", "maipg_vdn"]
SMALL = {"env": "toy", "seed": 3, "hidden_dim": 8, "gamma": 0.9, "chunk_length": 2, "epochs": 1}
SMALL |= dict.fromkeys(("batch_size_run", "batch_size", "buffer_size"), 8)
BOX = {"mac": "gaussian_mac", "env_args": {"box": True, "n_actions": 2}}


def session(name: str, **more: Any) -> Session:
    return build(resolve(merge(merge(load(ALGS / f"{name}.yaml"), SMALL), more)))


def collected(made: Session) -> EpisodeBatch:
    """As many new episodes as the session plays side by side, in its replay."""
    episodes = made.runner.collect(t_env=0, mode="explore").episodes
    made.replay.add(episodes)
    return made.replay.latest(len(episodes))


def learnt(made: Session, updates: int) -> Session:
    for _ in range(updates):
        collected(made)
        made.learner.update(made.replay, 0)
    return made


class Held(Replay):
    """A replay that hands out one batch, as it is."""

    def __init__(self, batch: EpisodeBatch) -> None:
        self.batch, self.added = batch, len(batch)

    def latest(self, n: int) -> EpisodeBatch:
        assert n == len(self.batch)
        return self.batch


def poisoned(batch: EpisodeBatch) -> EpisodeBatch:
    """The batch with two more padded steps, and NaN in every number at which nothing happened."""
    steps = batch.mask.shape[1]

    def spoilt(x: Tensor) -> Tensor:
        grown = torch.cat([x, torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])], 1)
        real = valid_mask(batch.length + (x.shape[1] > steps), grown.shape[1]).bool()
        real = real.view(*real.shape, *[1] * (x.dim() - 2))
        return torch.where(real, grown, torch.nan if x.is_floating_point() else x.new_ones(()))

    return dataclasses.replace(batch.map(spoilt), mask=valid_mask(batch.length, steps + 2))


def moved(made: Session, scale: float = 0.1) -> Session:
    """The session with every parameter changed a little, as some learning does."""
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in made.learner.parameters():
            p.add_(scale * torch.randn(p.shape, generator=rng))
    return made


class Oracle:
    """Episode by episode, step by step and agent by agent: what an update starts from, as lists of numbers."""

    def __init__(self, made: Session, batch: EpisodeBatch) -> None:
        self.made, self.batch, self.cfg = made, batch, made.learner.cfg
        self.places = [(e, t) for e in range(len(batch)) for t in range(int(batch.length[e]))]
        self.alive = {
            (e, t, i): bool(batch.avail[e, t, i, 1:].any()) or not made.env.spec.discrete
            for e, t in self.places
            for i in range(made.env.spec.n_agents)
        }
        self.log_prob = self.log_probs(made)
        self.values = [self._values(e) for e in range(len(batch))]
        self.raw = [self._advantages(e) for e in range(len(batch))]

    def log_probs(self, made: Session) -> dict[tuple[int, int, int], float]:
        """log π_i(a_i) from an unroll of each episode alone."""
        found, controller = {}, made.controller
        for e in range(len(self.batch)):
            steps = int(self.batch.length[e])
            obs, action = self.batch.obs[e : e + 1, :steps], self.batch.action[e : e + 1, :steps]
            last = last_actions(action, made.env.spec.n_actions)[:, :-1]
            out, _ = controller.agent(obs, last, controller.initial_hidden(1))
            drawn = controller.drawn(self.batch)[e : e + 1, :steps]
            law = controller.policy(out, self.batch.avail[e : e + 1, :steps])
            for t in range(steps):
                found |= {(e, t, i): x for i, x in enumerate(law.log_prob(drawn)[0, t].tolist())}
        return found

    def entropies(self) -> dict[tuple[int, int, int], float]:
        entropy = self.made.controller.policy(self.made.controller.unroll(self.batch), self.batch.avail).entropy()
        return {place: entropy[place].item() for place in self.alive}

    def _values(self, e: int) -> list[list[float]]:
        """V at every state of one episode, on the rewards' scale."""
        value, states = self.made.learner.value, int(self.batch.length[e]) + 1
        last = last_actions(self.batch.action[e : e + 1], self.made.env.spec.n_actions)[:, :states]
        x = value.inputs(self.batch.obs[e : e + 1, :states], last, self.batch.state[e : e + 1, :states])
        out, _ = value.critic(x, value.critic.initial_hidden(1, x.shape[2]))
        mean, std = (float(s) for s in value.scale.statistics())
        return (out[0, ..., 0] * std + mean).tolist()

    def _advantages(self, e: int) -> list[list[float]]:
        """Σ_l (γλ)^l δ_{t+l}, written as sums."""
        gamma, lam, steps = self.cfg.gamma, self.cfg.gae_lambda, int(self.batch.length[e])
        columns = len(self.values[e][0])
        rewards = self.batch.reward[e].reshape(self.batch.reward.shape[1], -1)
        result = [[0.0] * columns for _ in range(steps)]
        for t in range(steps):
            for m in range(columns):
                for k in range(t, steps):
                    end = k == steps - 1 and bool(self.batch.terminated[e, k])
                    ahead = 0.0 if end else self.values[e][k + 1][m]
                    reward = float(rewards[k, min(m, rewards.shape[1] - 1)])
                    result[t][m] += (gamma * lam) ** (k - t) * (reward + gamma * ahead - self.values[e][k][m])
        return result

    def advantage(self) -> dict[tuple[int, int, int], float]:
        """Â with mean 0 and deviation 1 over living agents."""
        alive = [place for place, lives in self.alive.items() if lives]
        raw = {(e, t, i): self.raw[e][t][min(i, len(self.raw[e][t]) - 1)] for e, t, i in alive}
        mean = sum(raw.values()) / len(raw)
        std = math.sqrt(sum((x - mean) ** 2 for x in raw.values()) / len(raw))
        return {place: (x - mean) / (std + 1e-5) for place, x in raw.items()}

    def returns(self, e: int, t: int, m: int) -> float:
        return self.raw[e][t][m] + self.values[e][t][m]

    def policy_loss(self, after: Session) -> float:
        """-mean min(ρ Â, clip(ρ) Â) - c mean H of the policies of ``after``."""
        new, advantage, total = self.log_probs(after), self.advantage(), 0.0
        entropy = Oracle.entropies(SimpleNamespace(made=after, batch=self.batch, alive=self.alive))
        for place, a in advantage.items():
            ratio = math.exp(new[place] - self.log_prob[place])
            clipped = min(max(ratio, 1 - self.cfg.clip), 1 + self.cfg.clip)
            total += min(ratio * a, clipped * a) + self.cfg.entropy_coef * entropy[place]
        return -total / len(advantage)

    def value_loss(self, after: Session) -> float:
        """mean max(h(V - R), h(V_old + clip(V - V_old) - R)), with V on the scale of the statistics of ``after``."""
        mean, std = (float(s) for s in self.made.learner.value.scale.statistics())
        new_mean, new_std = (float(s) for s in after.learner.value.scale.statistics())
        new, total, count = Oracle(after, self.batch).values, 0.0, 0
        for e, t in self.places:
            for m in range(len(new[e][t])):
                if len(new[e][t]) > 1 and not self.alive[e, t, m]:
                    continue
                if self.cfg.value_norm == "popart":
                    mean, std = new_mean, new_std
                v, old = (new[e][t][m] - new_mean) / new_std, (self.values[e][t][m] - mean) / std
                target = (self.returns(e, t, m) - new_mean) / new_std
                clipped = old + min(max(v - old, -self.cfg.clip), self.cfg.clip)
                total += max(self._huber(v - target), self._huber(clipped - target))
                count += 1
        return total / count

    def _huber(self, error: float) -> float:
        delta = self.cfg.huber_delta
        return error**2 / 2 if abs(error) <= delta else delta * (abs(error) - delta / 2)


def twin(made: Session) -> Session:
    """Another session with the same parameters and statistics."""
    other = build(made.settings)
    other.learner.load_state_dict(copy.deepcopy(made.learner.state_dict()))
    return other
