"""The particle environments' physics: golden values, and plain loops over random scenes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from envs.particles.physics import Bodies, advance, bodies, distances, penetration

RIGHT = torch.tensor([[[1.0]], [[0.0]]])


def rows_last(points: Tensor) -> Tensor:
    """[b, n, 2] as [2, n, b]."""
    return points.permute(2, 1, 0)


def test_push_from_rest() -> None:
    body, vel, pos = bodies(torch.tensor([0.15])), torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)
    seen = []
    for _ in range(3):
        vel, pos = advance(vel, pos, RIGHT, body)
        seen += [vel[0].item(), pos[0].item()]
    # The new velocity moves the point: 0.1 * 0.5 = 0.05 already after the first step.
    assert seen == pytest.approx([0.5, 0.05, 0.875, 0.1375, 1.15625, 0.253125])
    assert not vel[1].any() and not pos[1].any()


def test_terminal_velocity() -> None:
    body, vel, pos = bodies(torch.tensor([0.15])), torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)
    for _ in range(100):
        vel, pos = advance(vel, pos, RIGHT, body)
    assert vel.flatten().tolist() == pytest.approx([2.0, 0.0])


def test_contact_of_two() -> None:
    pos = rows_last(torch.tensor([[[0.0, 0.0], [0.25, 0.0]]]))
    body = bodies(torch.tensor([0.15, 0.15]))
    assert pytest.approx(torch.tensor([[-5.0, 0], [5, 0]]), abs=1e-4) == 100 * penetration(pos, body.reach)[..., 0].T
    vel, _ = advance(torch.zeros_like(pos), pos, torch.zeros_like(pos), body)
    assert pytest.approx(torch.tensor([[-0.5, 0], [0.5, 0]]), abs=1e-5) == vel[..., 0].T


@pytest.mark.parametrize(("distance", "force"), [(0.3, 0.0693147), (0.302, 0.0126928), (0.35, 0.0), (5.0, 0.0)])
def test_the_spring_is_smooth(distance: float, force: float) -> None:
    """At the edge 100 k log 2; two margins beyond it 100 k log(1 + e^-2)."""
    pos = rows_last(torch.tensor([[[0.0, 0.0], [0.0, distance]]]))
    pushed = 100 * penetration(pos, bodies(torch.tensor([0.1, 0.2])).reach)
    assert pushed[1, :, 0].tolist() == pytest.approx([-force, force], rel=1e-3, abs=1e-7)


def test_same_spot_and_ghosts() -> None:
    pos = torch.zeros(2, 3, 1)
    assert not penetration(pos, bodies(torch.full((3,), 0.15)).reach).any()
    assert bodies(torch.full((3,), 0.15), collide=torch.zeros(3, dtype=torch.bool)).reach is None
    assert bodies(torch.tensor([0.15])).reach is None


def oracle(row: dict[str, list], b: dict[str, list[float]]) -> tuple[list[list[float]], list[list[float]]]:
    """One step of one row, body by body."""
    n = len(b["size"])
    vels, poss = [], []
    for i in range(n):
        force = [b["accel"][i] * u for u in row["push"][i]]
        for j in range(n):
            if i == j or not (b["collide"][i] and b["collide"][j]):
                continue
            away = [p - q for p, q in zip(row["pos"][i], row["pos"][j], strict=True)]
            d = math.hypot(*away)
            x = (b["size"][i] + b["size"][j] - d) / 1e-3
            depth = 1e-3 * (x if x > 30 else math.log1p(math.exp(x)) if x > -700 else 0.0)
            force = [f + 100 * depth * a / d for f, a in zip(force, away, strict=True)]
        vel = [0.75 * v + 0.1 * f / b["mass"][i] for v, f in zip(row["vel"][i], force, strict=True)]
        speed = math.hypot(*vel)
        if speed > b["max_speed"][i]:
            vel = [v / speed * b["max_speed"][i] for v in vel]
        vels.append(vel)
        poss.append([p + 0.1 * v for p, v in zip(row["pos"][i], vel, strict=True)])
    return vels, poss


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_random_scenes(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    table = {
        "size": 0.05 + 0.2 * torch.rand(n, generator=rng),
        "collide": torch.arange(n) != 1,
        "accel": 1 + 4 * torch.rand(n, generator=rng),
        "mass": 0.5 + 2 * torch.rand(n, generator=rng),
        "max_speed": torch.where(torch.rand(n, generator=rng) < 0.5, 0.8, torch.inf),
    }
    b = 60
    scene = {name: 2 * torch.rand(b, n, 2, generator=rng) - 1 for name in ("pos", "vel", "push")}
    scene["pos"] *= torch.linspace(0.1, 1, b)[:, None, None]  # from a crowd to a scattered lot
    body: Bodies = bodies(table["size"], **{k: x for k, x in table.items() if k != "size"})
    vel, pos = advance(rows_last(scene["vel"]), rows_last(scene["pos"]), rows_last(scene["push"]), body)
    plain = {name: x.tolist() for name, x in table.items()}
    expected = [oracle({name: x[i].tolist() for name, x in scene.items()}, plain) for i in range(b)]
    assert torch.allclose(vel.permute(2, 1, 0), torch.tensor([v for v, _ in expected]), rtol=1e-4, atol=2e-5)
    assert torch.allclose(pos.permute(2, 1, 0), torch.tensor([p for _, p in expected]), rtol=1e-5, atol=3e-6)


def test_distances() -> None:
    a, b = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    expected = [[[math.dist(a[:, i, k], b[:, j, k]) for k in range(5)] for j in range(4)] for i in range(3)]
    assert torch.allclose(distances(a, b), torch.tensor(expected))
