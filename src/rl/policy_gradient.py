"""What policy-gradient losses are made of, as pure functions of tensors."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl.masked import expectation, masked_mean, taken


def clipped_surrogate(
    ratio: Float[Tensor, "*rest"], advantage: Float[Tensor, "*#rest"], clip: float
) -> Float[Tensor, "*rest"]:
    r"""PPO's objective, to be maximised: :math:`\min(\rho A, clip(\rho, 1 \pm \epsilon) A)`.

    Schulman et al. 2017, equation 7. ρ is the new probability of an action over the one it was taken with.
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def counterfactual_advantage(
    q: Float[Tensor, "*rest a"],
    pi: Float[Tensor, "*rest a"],
    avail: Bool[Tensor, "*rest a"],
    action: Int[Tensor, "*rest"],
) -> Float[Tensor, "*rest"]:
    r""":math:`Q(a) - \sum_{a'} \pi(a') Q(a')`: what an agent's action adds to its policy's average, others as they are.

    Foerster et al. 2018 (COMA), equation 4; DOP's local advantage (Wang et al. 2021). Constant: no gradient.
    """
    return (taken(q, action) - expectation(pi, q, avail)).detach()


def standardised(
    x: Float[Tensor, "b t *rest"], mask: Float[Tensor, "b t *rest"], epsilon: float = 1e-5
) -> Float[Tensor, "b t *rest"]:
    """x with mean 0 and standard deviation 1 over the entries where ``mask`` is 1; 0 elsewhere."""
    real = mask > 0
    count = real.sum().clamp(min=1)
    mean = torch.where(real, x, 0.0).sum() / count
    centred = torch.where(real, x - mean, 0.0)
    return centred / ((centred.square().sum() / count).sqrt() + epsilon)


def huber(error: Float[Tensor, "*rest"], delta: float) -> Float[Tensor, "*rest"]:
    """Half the square up to ``delta``, linear beyond (Huber 1964)."""
    return torch.where(error.abs() <= delta, 0.5 * error.square(), delta * (error.abs() - 0.5 * delta))


def mean_over(x: Float[Tensor, "b t *rest"], mask: Float[Tensor, "b t *n"]) -> Float[Tensor, ""]:
    """Mean of x where ``mask`` is 1; the mask may tell agents apart, which ``masked_mean`` does not."""
    if mask.dim() == 2:
        return masked_mean(x, mask)
    return torch.where(mask > 0, x, 0.0).sum() / (mask > 0).sum().clamp(min=1)
