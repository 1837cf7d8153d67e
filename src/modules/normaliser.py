"""Running statistics by which values are brought to one scale (algorithms.md 1.11)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = 0.99999
"""Share of the old statistics that an update keeps (MAPPO)."""
LEAST_VARIANCE = 1e-2
"""Floor of the variance (MAPPO)."""


class ValueNorm(nn.Module):
    """MAPPO's debiased moving averages of mean and mean square; part of the checkpoint.

    They are kept in double precision: a variance is the small difference of two large numbers. Before the first update
    the mean is 0 and the variance at its floor, as in the release.
    """

    moments: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(2, dtype=torch.double))
        self.register_buffer("weight", torch.zeros((), dtype=torch.double))

    @torch.no_grad()
    def update(self, x: Float[Tensor, "b t *n"], mask: Float[Tensor, "b t *n"]) -> None:
        """Takes the entries of x in where ``mask`` is 1; nothing else is read (T-16)."""
        real = mask > 0
        x = torch.where(real, x, 0.0).double()
        batch = torch.stack([x.sum(), x.square().sum()]) / real.sum().clamp(min=1)
        share = (1 - DECAY) * real.any()
        self.moments.lerp_(batch, share)
        self.weight.lerp_(torch.ones_like(self.weight), share)

    def statistics(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean and standard deviation."""
        mean, square = self.moments / self.weight.clamp(min=1e-12)
        std = (square - mean.square()).clamp(min=LEAST_VARIANCE).sqrt()
        return mean.float(), std.float()

    def normalise(self, x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """(x - mean) / deviation."""
        mean, std = self.statistics()
        return (x - mean) / std

    def denormalise(self, x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """The inverse of ``normalise``."""
        mean, std = self.statistics()
        return x * std + mean

    def keep(self, out: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """What to remember of a network's output so that ``kept`` gives it back after the statistics have moved."""
        return out

    def kept(self, out: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """The output that the network, had it not learnt, would give now."""
        return out


class PopArt(ValueNorm):
    """The same statistics, which do not move the values: the last layer follows them (van Hasselt et al. 2016)."""

    def __init__(self, head: nn.Linear) -> None:
        """``head`` puts the normalised values out; it is not a part of this module."""
        super().__init__()
        self._head = (head,)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "b t *n"], mask: Float[Tensor, "b t *n"]) -> None:
        """As ``ValueNorm``, then W ← W σ/σ' and b ← (σ b + μ - μ')/σ'."""
        mean, std = self.statistics()
        super().update(x, mask)
        new_mean, new_std = self.statistics()
        head = self._head[0]
        head.weight.mul_(std / new_std)
        head.bias.mul_(std).add_(mean - new_mean).div_(new_std)

    def keep(self, out: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """The value: it is what stays."""
        return self.denormalise(out)

    def kept(self, out: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """The value on today's scale."""
        return self.normalise(out)


class Unnormalised(ValueNorm):
    """Values as they are."""

    def update(self, x: Float[Tensor, "b t *n"], mask: Float[Tensor, "b t *n"]) -> None:
        """Nothing is learnt."""

    def statistics(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """0 and 1."""
        one = torch.ones_like(self.weight, dtype=torch.float)
        return one - one, one


class RewardNorm(nn.Module):
    """Mean and deviation of each agent's rewards over all steps ever seen (MAAC's ``norm_rews``; T-47)."""

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, n: int) -> None:
        """For ``n`` agents. In double precision, like ``ValueNorm``."""
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.double))
        self.register_buffer("mean", torch.zeros(n, dtype=torch.double))
        self.register_buffer("square", torch.zeros(n, dtype=torch.double))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "b t n"], mask: Float[Tensor, "b t"]) -> None:
        """Takes the real steps in; nothing else is read (T-16)."""
        real = mask > 0
        x, new = torch.where(real[..., None], reward, 0.0).double(), real.sum()
        self.count += new
        share = new / self.count.clamp(min=1)
        self.mean.lerp_(x.sum((0, 1)) / new.clamp(min=1), share)
        self.square.lerp_(x.square().sum((0, 1)) / new.clamp(min=1), share)

    def normalise(self, reward: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """(reward - mean) / deviation, each agent by its own."""
        std = (self.square - self.mean.square()).clamp(min=LEAST_VARIANCE**2).sqrt()
        return ((reward - self.mean) / std).float()
