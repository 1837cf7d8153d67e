"""Return estimators against the worked numbers of algorithms.md 1.5(f) (AC-01) and against padding."""

import pytest
import torch

from rl.returns import gae, n_step, td_lambda, tree_backup

GAMMA = 0.9
REWARD = [1.0, 2.0, 3.0]
Q = [0.5, 1.0, 1.5]
P = [0.5, 0.25, 0.2]
CASES = {
    # name: (estimate(x), values without the last one, last value if truncated, result if terminated, if truncated)
    "td_lambda": (lambda x: td_lambda(*x[:3], x[3], GAMMA, 0.8), Q, 2.0, [4.3696, 4.43, 3.0], [5.30272, 5.726, 4.8]),
    "gae": (
        lambda x: gae(*x[:3], x[3], GAMMA, 0.95),
        Q,
        2.0,
        [4.505788, 3.6325, 1.5],
        [5.821632, 5.1715, 3.3],
    ),
    "tree_backup": (
        lambda x: tree_backup(*x[:3], x[4], x[3], x[5], GAMMA, 0.93, 5),
        [0.4, 0.8, 1.2],
        1.8,
        [2.207783, 3.3311, 3.0],
        [2.264529, 3.602288, 4.62],
    ),
    # by hand: 1 + .9*2 + .81*1.5; 2 + .9*3 (+ .81*2); 3 (+ .9*2)
    "two_step": (lambda x: n_step(*x[:3], x[3], GAMMA, 2), Q, 2.0, [4.015, 4.7, 3.0], [4.015, 6.32, 4.8]),
    # by hand: r + .9 * next value
    "one_step": (lambda x: n_step(*x[:3], x[3], GAMMA, 1), Q, 2.0, [1.9, 3.35, 3.0], [1.9, 3.35, 4.8]),
}


def episode(values, last, terminated, padding=0, fill=torch.nan):
    """reward, terminated, mask, value, q, p of the one episode, as a batch of 1 with ``padding`` more steps."""
    pad = [fill] * padding
    flags = [[False, False, terminated] + [True] * padding]
    mask = [[1.0] * 3 + [0.0] * padding]
    rows = [[*values, last, *pad], Q + pad, P + pad]
    return [torch.tensor(x) for x in ([REWARD + pad], flags, mask, *[[row] for row in rows])]


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("name", CASES)
class TestGoldens:
    def case(self, name, terminated):
        estimate, values, last, if_terminated, if_truncated = CASES[name]
        want = torch.tensor([if_terminated if terminated else if_truncated])
        # after a true end even a NaN at the last state must not matter
        return estimate, values, torch.nan if terminated else last, want

    def test_numbers(self, name, terminated):
        estimate, values, last, want = self.case(name, terminated)
        torch.testing.assert_close(estimate(episode(values, last, terminated)), want, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1e6])
    def test_padding_is_never_read(self, name, terminated, fill):
        estimate, values, last, want = self.case(name, terminated)
        got = estimate(episode(values, last, terminated, padding=4, fill=fill))
        torch.testing.assert_close(got[:, :3], want, atol=1e-5, rtol=0)
        assert (got[:, 3:] == 0).all()

    def test_beside_a_longer_episode(self, name, terminated):
        estimate, values, last, want = self.case(name, terminated)
        short, rng = episode(values, last, terminated, padding=4), torch.Generator().manual_seed(1)
        long = [torch.randn(x.shape, generator=rng) for x in short]
        long[1], long[2] = torch.zeros(1, 7, dtype=torch.bool), torch.ones(1, 7)
        both = [torch.cat([b, a]) for a, b in zip(short, long, strict=True)]
        torch.testing.assert_close(estimate(both)[1:, :3], want, atol=1e-5, rtol=0)
        torch.testing.assert_close(estimate(both)[:1], estimate(long))

    def test_gradient_with_nan_padding(self, name, terminated):
        estimate, values, last, _ = self.case(name, terminated)
        clean = episode(values, last, terminated)
        padded = episode(values, last, terminated, padding=2)
        gradients = []
        for x in (clean, padded):
            x[3].requires_grad_()
            estimate(x).square().sum().backward()
            gradients.append(x[3].grad)
        assert gradients[1].isfinite().all()
        torch.testing.assert_close(gradients[1][:, :4], gradients[0])


def test_values_of_agents_and_a_common_reward():
    reward, terminated, mask, value, *_ = episode(Q, 2.0, False, padding=1)
    each = torch.stack([value, 2 * value], dim=-1)
    got = td_lambda(reward, terminated, mask, each, GAMMA, 0.8)
    for i in range(2):
        torch.testing.assert_close(got[..., i], td_lambda(reward, terminated, mask, each[..., i], GAMMA, 0.8))
    own = td_lambda(torch.stack([reward, reward], -1), terminated, mask, each, GAMMA, 0.8)
    torch.testing.assert_close(own, got)


def test_gradient_of_td_lambda_by_hand():
    value = torch.tensor([[0.3, 1.0, 2.0]], requires_grad=True)
    got = td_lambda(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2), value, 0.5, 0.4)
    got[0, 0].backward()  # G_0 = r + g (1-l) X_1 + g l (r + g X_2)
    torch.testing.assert_close(value.grad, torch.tensor([[0.0, 0.5 * 0.6, 0.5 * 0.4 * 0.5]]))


def test_shapes_are_enforced():
    wrong = torch.zeros(2, 3)
    with pytest.raises(Exception, match="typechecking parameter 'value'"):
        td_lambda(wrong, wrong.bool(), wrong, wrong, 0.9, 0.9)
