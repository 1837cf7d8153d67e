"""What every mixer can do."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from core.specs import EpisodeBatch
from rl.masked import taken

Mixing = Callable[[Tensor], Tensor]
"""Q_tot [b, t] of the agents' values [b, t, n] at states that are known already."""


class Mixer(nn.Module):
    """Makes one joint value of the agents' values. Every step is mixed by itself, padding like any other.

    Mixers of utilities define ``forward(q, state) -> Q_tot``. Those that read more define ``joint`` instead.
    """

    reads_joint = False
    """True where there is no ``forward``: such a mixer needs the joint action and the agents' values V_i."""

    def given(self, state: Float[Tensor, "b t s"]) -> Mixing:
        """Q_tot as a function of q alone; what follows from the state is made here, once for several q."""
        return lambda q: self(q, state)

    def joint(
        self,
        q: Float[Tensor, "b t n"],
        v: Float[Tensor, "b t n"],  # noqa: ARG002 - read by mixers of advantages
        state: Float[Tensor, "b t s"],
        joint: Float[Tensor, "b t n a"],  # noqa: ARG002 - read by mixers that see the joint action
        obs: Float[Tensor, "b t n o"],  # noqa: ARG002 - read by mixers that attend to the agents
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Q_jt with all that a mixer may read, and what is to be added to the loss; here ``forward`` and 0.

        Args:
            q: Q_i of the actions ``joint``.
            v: values V_i of the agents' policies: soft ones, or the largest Q_i where the policies are greedy;
                constant.
            state: s.
            joint: u, the actions as one-hots, or the vectors themselves in a box.
            obs: the agents' observations.
        """
        q_tot = self(q, state)
        return q_tot, q_tot.new_zeros(q_tot.shape)


def mix_locals(
    mixer: Mixer,
    batch: EpisodeBatch,
    q: Float[Tensor, "b t n a"],
    action: Int[Tensor, "b t n"],
    value: Callable[[Tensor, Tensor], Tensor],
    mix: Mixing | None = None,
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Q_jt of a joint action at the first t states, and what the mixer adds to the loss.

    ``value`` makes V_i of ``q``, taken as constant, and the available actions; it is called where the mixer reads V_i.
    ``mix`` is what the mixer is ``given`` these states, where that is known.
    """
    steps, chosen = slice(0, action.shape[1]), taken(q, action)
    if not mixer.reads_joint:
        q_tot = (mix or mixer.given(batch.state[:, steps]))(chosen)
        return q_tot, q_tot.new_zeros(q_tot.shape)
    v, joint = value(q.detach(), batch.avail[:, steps]), one_hot(action, q.shape[-1]).to(q.dtype)
    return mixer.joint(chosen, v, batch.state[:, steps], joint, batch.obs[:, steps])
