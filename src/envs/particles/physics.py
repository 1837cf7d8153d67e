"""The physics of OpenAI's multi-agent particle environments (Lowe et al. 2017), for all rows at once.

Vectors are [2, n, b]: x or y, agent, row. With the rows last, every operation runs over long stretches of memory, which
makes a step of thousands of rows several times faster than with the rows first.

Numbers are the original's: per step, forces are summed, v <- (1 - damping) v + dt F / m, v is cut to the maximal speed,
and x <- x + dt v with the *new* v. Two bodies that collide push each other away with a smooth spring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
"""Over which distance the spring's force sets in."""
SENSITIVITY = 5.0
"""Force of a full push where a body has no ``accel`` of its own."""
_TINY = 1e-12


@dataclass(frozen=True)
class Bodies:
    """What bodies are, the same in all rows; made by ``bodies``."""

    reach: Float[Tensor, "n n 1"] | None
    """Distance below which two bodies touch, -inf where they pass through each other; None where nobody collides."""
    push_gain: Float[Tensor, "n 1"]
    """Velocity that one step of a full push adds."""
    contact_gain: Float[Tensor, "n 1"]
    """Velocity that one step of contact adds, per unit of penetration."""
    max_speed: Float[Tensor, "n 1"] | None
    """None where nobody is limited."""
    weight: Float[Tensor, "n 1"] | None = None
    """How much it counts to be touched by a body; None: by all alike."""


def bodies(
    size: Float[Tensor, " n"],
    *,
    collide: Bool[Tensor, " n"] | None = None,
    accel: Float[Tensor, " n"] | None = None,
    mass: Float[Tensor, " n"] | None = None,
    max_speed: Float[Tensor, " n"] | None = None,
    by_mass: bool = False,
) -> Bodies:
    """Bodies with these radii, on the device of ``size``.

    Args:
        size: radii.
        collide: who is solid; None: everybody.
        accel: force of a full push; None: ``SENSITIVITY``.
        mass: None: 1.
        max_speed: inf for no limit; None: no limit for anybody.
        by_mass: contact pushes a body with the force times the other's mass over its own, as in MAAC's copy.
    """
    solid = torch.ones_like(size, dtype=torch.bool) if collide is None else collide
    accel = torch.full_like(size, SENSITIVITY) if accel is None else accel
    mass = torch.ones_like(size) if mass is None else mass
    pair = solid[:, None] & solid & ~torch.eye(len(size), dtype=torch.bool, device=size.device)
    reach = torch.where(pair, size[:, None] + size, -torch.inf)[..., None]
    return Bodies(
        reach=reach if bool(pair.any()) else None,
        push_gain=(DT * accel / mass)[:, None],
        contact_gain=(DT * CONTACT_FORCE / (mass.square() if by_mass else mass))[:, None],
        max_speed=None if max_speed is None else max_speed[:, None],
        weight=mass[:, None] if by_mass else None,
    )


def distances(a: Float[Tensor, "2 n b"], b: Float[Tensor, "2 m b"]) -> Float[Tensor, "n m b"]:
    """From every point of ``a`` to every point of ``b``."""
    x, y = (a[:, :, None] - b[:, None]).unbind()
    return torch.hypot(x, y)


def penetration(
    pos: Float[Tensor, "2 n b"], reach: Float[Tensor, "n n 1"], weight: Float[Tensor, "n 1"] | None = None
) -> Float[Tensor, "2 n b"]:
    """How deep the others are in each body, as a vector away from them, summed over the others by their ``weight``.

    A pair at distance d is k log(1 + exp((reach - d) / k)) deep, k being ``CONTACT_MARGIN``: reach - d where they
    overlap, next to nothing where they do not. Bodies on one and the same spot do not push each other; the original
    makes their positions nan.
    """
    offset = pos[:, :, None] - pos[:, None]
    x, y = offset.unbind()
    distance = torch.hypot(x, y).clamp_(min=_TINY)
    depth = softplus(reach - distance, beta=1 / CONTACT_MARGIN).div_(distance)
    return offset.mul_(depth if weight is None else depth.mul_(weight)).sum(2)


def advance(
    vel: Float[Tensor, "2 n b"], pos: Float[Tensor, "2 n b"], push: Float[Tensor, "2 n b"], body: Bodies
) -> tuple[Float[Tensor, "2 n b"], Float[Tensor, "2 n b"]]:
    """Velocities and positions after one step, in which the agents push with ``push`` (each component in [-1, 1])."""
    vel = torch.addcmul((1 - DAMPING) * vel, push, body.push_gain)
    if body.reach is not None:
        vel.addcmul_(penetration(pos, body.reach, body.weight), body.contact_gain)
    if body.max_speed is not None:
        speed = torch.hypot(vel[0], vel[1])
        vel = vel * (body.max_speed / speed.clamp(min=_TINY)).clamp(max=1)
    return vel, torch.add(pos, vel, alpha=DT)
