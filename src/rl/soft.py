"""Maximum-entropy values and losses (algorithms.md 1.8)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from rl.masked import exp_where, ones_where, only


def soft_value(
    q: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"], alpha: float | Float[Tensor, "*#rest"]
) -> Float[Tensor, "*rest"]:
    r"""The value of the Boltzmann policy of q, :math:`V = \alpha \log \sum_{a\,available} \exp(q(a)/\alpha)`.

    MACPF's equation 4 prints it without the logarithm. FOP's and MACPF's releases sum over all actions (T-11).

    Args:
        q: values of the actions.
        avail: which of them are available.
        alpha: temperature > 0; as a tensor it is broadcast against the result (one per agent: [n]).
    """
    alpha = alpha.unsqueeze(-1) if isinstance(alpha, Tensor) else alpha
    here = ones_where(avail, q.dtype)
    kept = only(q, here)
    best = (kept.detach() + (1 - 1 / here)).amax(-1, keepdim=True)  # 1 - 1/0 is -inf
    return (alpha * exp_where(here, (kept - best) / alpha).sum(-1, keepdim=True).log() + best).squeeze(-1)


def soft_policy_loss(
    log_pi: Float[Tensor, "*rest a"],
    q: Float[Tensor, "*rest a"],
    avail: Bool[Tensor, "*rest a"],
    alpha: float | Float[Tensor, "*#rest"],
) -> Float[Tensor, "*rest"]:
    r""":math:`\sum_a \pi(a)\,[\alpha \log \pi(a) - sg\,q(a)]`: α KL(π ‖ Boltzmann policy of q), up to a constant.

    The actor losses of FOP and MACPF (algorithms.md 6.4, 8.2); q gets no gradient.
    """
    alpha = alpha.unsqueeze(-1) if isinstance(alpha, Tensor) else alpha
    here = ones_where(avail, log_pi.dtype)
    return (exp_where(here, log_pi) * only(alpha * log_pi - q.detach(), here)).sum(-1)
