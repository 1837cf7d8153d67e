"""Mixers: what they compute, in which values they rise, and where their gradients go (AC-09, AC-25)."""

import pytest
import torch
from torch.nn.functional import elu, one_hot

from core.registry import MIXERS
from core.specs import ActionSpec, EnvSpec

B, T, N, A, WIDTH, S, UNIT = 4, 3, 3, 4, 5, 11, 3
SPEC = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(WIDTH,) * N, state_dim=S, episode_limit=T)
SLICED = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(WIDTH,) * N, state_dim=S, episode_limit=T, unit_dim=UNIT)


def build(name, spec=SPEC, **keys):
    torch.manual_seed(2)
    return MIXERS[name](spec, MIXERS[name].Config(**keys))


def inputs():
    """q, v, state, joint action, observations."""
    rng = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, B, T, N, generator=rng)
    joint = one_hot(torch.randint(A, (B, T, N), generator=rng), A).float()
    return q, v, torch.randn(B, T, S, generator=rng), joint, torch.randn(B, T, N, WIDTH, generator=rng)


def slope(mixer):
    """∂Q_tot/∂q_i."""
    q, v, state, joint, obs = inputs()
    q.requires_grad_()
    return torch.autograd.grad(mixer.joint(q, v, state, joint, obs)[0].sum(), q)[0]


EVERY = {
    "vdn": ("vdn", {}),
    "qmix": ("qmix", {}),
    "qmix_shallow": ("qmix", {"hypernet_layers": 1}),
    "linear": ("linear", {}),
    "linear_shallow": ("linear", {"hypernet_layers": 1}),
    "linear_one": ("linear", {"mixer_weights": "one", "mixer_bias": False}),
    "fop": ("fop", {}),
    "fop_one_layer": ("fop", {"adv_hypernet_layers": 1}),
    "fop_one": ("fop", {"mixer_weights": "one"}),
    "qplex": ("qplex", {}),
    "qplex_matrix": ("qplex", {"n_head": 10, "adv_hypernet_layers": 3}),
}


@pytest.fixture(params=EVERY.values(), ids=EVERY)
def choice(request):
    return request.param


@pytest.fixture
def mixer(choice):
    return build(choice[0], **choice[1])


class TestEveryMixer:
    def test_shapes(self, mixer):
        q_tot, regulariser = mixer.joint(*inputs())
        assert q_tot.shape == regulariser.shape == (B, T)

    def test_rises_with_every_value(self, mixer):
        assert (slope(mixer) > 0).all()

    def test_steps_do_not_mix(self, mixer):
        """Padding is a step like any other, so what it holds, even NaN, stays there."""
        x, whole = inputs(), mixer.joint(*inputs())
        for z in x:
            z[1, 2] = torch.nan
        for got, want in zip(mixer.joint(*x), whole, strict=True):
            got[1, 2] = want[1, 2] = 0
            assert torch.equal(got, want)

    def test_every_parameter_learns(self, mixer):
        q, *others = inputs()
        sum(mixer.joint(q.requires_grad_(), *others)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixer.parameters())

    def test_state_round_trip(self, mixer, choice):
        other = build(choice[0], **choice[1])
        with torch.no_grad():
            for p in other.parameters():
                p.add_(1.0)
        other.load_state_dict(mixer.state_dict())
        assert torch.equal(other.joint(*inputs())[0], mixer.joint(*inputs())[0])


def test_vdn_is_the_sum():
    q, _, state, *_ = inputs()
    torch.testing.assert_close(build("vdn")(q, state), q[..., 0] + q[..., 1] + q[..., 2])


@pytest.mark.parametrize("layers", [1, 2])
def test_qmix_by_the_formula(layers):
    mixer, (q, _, state, *_) = build("qmix", hypernet_layers=layers, mixing_embed_dim=6), inputs()
    got = mixer(q, state)
    for b, t in ((0, 0), (3, 2)):
        s = state[b, t]
        w1 = mixer.w1(s).abs().reshape(N, 6)
        hidden = elu(q[b, t] @ w1 + mixer.b1(s))
        torch.testing.assert_close(got[b, t], hidden @ mixer.w2(s).abs() + mixer.v(s)[0])


def test_qmix_sizes():
    """PyMARL's QMIX on 2s3z."""
    spec = EnvSpec(actions=(ActionSpec(11),) * 5, obs_dims=(80,) * 5, state_dim=120, episode_limit=120)
    mixer = MIXERS["qmix"](spec, MIXERS["qmix"].Config())
    w1 = 120 * 64 + 64 + 64 * 160 + 160
    assert sum(p.numel() for p in mixer.w1.parameters()) == w1
    total = w1 + (120 * 64 + 64 + 64 * 32 + 32) + (120 * 32 + 32) + (120 * 32 + 32 + 32 + 1)
    assert sum(p.numel() for p in mixer.parameters()) == total


@pytest.mark.parametrize("layers", [1, 2])
def test_linear_is_qmix_without_the_nonlinearity(layers):
    keys = {"hypernet_layers": layers, "mixing_embed_dim": 6}
    mixer, (q, _, state, *_) = build("linear", **keys), inputs()
    s = state[1, 1]
    hidden = q[1, 1] @ mixer.w1(s).abs().reshape(N, 6) + mixer.b1(s)
    torch.testing.assert_close(mixer(q, state)[1, 1], hidden @ mixer.w2(s).abs() + mixer.v(s)[0])


@pytest.mark.parametrize("keys", [{}, {"mixer_weights": "one"}, {"mixer_bias": False}])
def test_linear_weights_are_its_slopes(keys):
    mixer, (q, _, state, *_) = build("linear", **keys), inputs()
    k, b = mixer.weights(state)
    torch.testing.assert_close(slope(mixer), k)
    torch.testing.assert_close(mixer(torch.zeros_like(q), state), b)
    assert (k == 1).all() == (keys.get("mixer_weights") == "one")
    assert (b == 0).all() == (keys.get("mixer_bias") is False)


@pytest.mark.parametrize("spec", [SPEC, SLICED])
@pytest.mark.parametrize("weights", ["attention", "one"])
def test_fop_identity(spec, weights):
    """AC-09: Q_jt = Σ λ_i w_i (Q_i - V_i) + c + Σ w_i V_i."""
    mixer, (q, v, state, joint, obs) = build("fop", spec, mixer_weights=weights), inputs()
    got, _ = mixer.joint(q, v, state, joint, obs)
    w, lam, c = mixer.weights(state, obs)[0], mixer.lambdas(state, joint), mixer.c(state)[..., 0]
    torch.testing.assert_close(got, (lam * w * (q - v)).sum(-1) + c + (w * v).sum(-1), atol=1e-5, rtol=1e-5)
    assert (w > 0).all() and (lam > 0).all()


def test_fop_gradients():
    """AC-09: Q_i learns through w_i alone, λ from the frozen advantage alone, V_i never, w not from the advantage."""
    mixer, (q, v, state, joint, obs) = build("fop"), inputs()
    q.requires_grad_()
    v.requires_grad_()
    q_jt, _ = mixer.joint(q, v, state, joint, obs)
    w, _ = mixer.weights(state, obs)
    to_q, to_v = torch.autograd.grad(q_jt.sum(), [q, v], allow_unused=True, retain_graph=True)
    torch.testing.assert_close(to_q, w)
    assert to_v is None
    for part, through in (
        (mixer.lambdas.actions, ((w * (q - v)).detach() * mixer.lambdas(state, joint)).sum()),
        (mixer.lambdas.agents, ((w * (q - v)).detach() * mixer.lambdas(state, joint)).sum()),
        (mixer.query, (w * q.detach()).sum()),
        (mixer.key, (w * q.detach()).sum()),
        (mixer.c, mixer.c(state).sum()),
    ):
        parameters = list(part.parameters())
        got = torch.autograd.grad(q_jt.sum(), parameters, retain_graph=True)
        want = torch.autograd.grad(through, parameters, retain_graph=True)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_fop_without_advantage_teaches_lambda_nothing():
    mixer, (q, _, state, joint, obs) = build("fop"), inputs()
    q_jt, _ = mixer.joint(q, q.clone(), state, joint, obs)
    for gradient in torch.autograd.grad(q_jt.sum(), list(mixer.lambdas.actions.parameters())):
        assert (gradient == 0).all()


@pytest.mark.parametrize("name", ["fop", "qplex"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_lambda_by_the_formula(name, layers):
    mixer, (_, _, state, joint, _) = build(name, adv_hypernet_layers=layers, n_head=2), inputs()
    got, s, u = mixer.lambdas(state, joint)[2, 1], state[2, 1], joint[2, 1].flatten()
    want = torch.zeros(N)
    for h in range(2):
        key, agents = mixer.lambdas.key(s)[h, 0].abs() + 1e-10, mixer.lambdas.agents(s)[h].sigmoid()
        want += key * agents * mixer.lambdas.actions(torch.cat([s, u]))[h].sigmoid()
    torch.testing.assert_close(got, want)


def test_fop_lambda_needs_two_layers_to_weigh_combinations():
    """T-26: without a hidden layer the logits are additive over the agents' actions."""
    _, _, state, joint, _ = inputs()
    for layers, additive in ((1, True), (2, False)):
        mixer = build("fop", adv_hypernet_layers=layers)

        def logit(first, second, mixer=mixer):
            u = joint[:1, :1].clone()
            u[..., 0, :], u[..., 1, :] = torch.eye(A)[first], torch.eye(A)[second]
            return mixer.lambdas.actions(torch.cat([state[:1, :1], u.flatten(-2)], -1))

        interaction = logit(0, 0) - logit(0, 1) - logit(1, 0) + logit(1, 1)
        assert (interaction.abs().max() < 1e-5) == additive


@pytest.mark.parametrize(
    ("spec", "unit", "sliced"), [(SPEC, "auto", False), (SLICED, "auto", True), (SLICED, "obs", False)]
)
def test_attention_by_the_formula(spec, unit, sliced):
    mixer, (_, _, state, _, obs) = build("fop", spec, mixer_unit=unit, mixing_embed_dim=6), inputs()
    w, regulariser = mixer.weights(state, obs)
    torch.testing.assert_close(w.sum(-1), torch.full((B, T), 4.0))  # n_head
    want, penalty = torch.zeros(N), 0.0
    units = state[0, 1, : N * UNIT].reshape(N, UNIT) if sliced else obs[0, 1]
    for h in range(4):
        logits = torch.stack([mixer.query(state[0, 1])[h] @ mixer.key(units[i])[h] for i in range(N)])
        want += (logits / 6**0.5).softmax(0)
        penalty += 1e-3 * logits.square().mean()
    torch.testing.assert_close(w[0, 1], want)
    torch.testing.assert_close(regulariser[0, 1], penalty)


def test_state_slice_needs_blocks():
    with pytest.raises(ValueError, match="no block per agent"):
        build("fop", SPEC, mixer_unit="state_slice")


@pytest.mark.parametrize("keys", [{}, {"n_head": 10, "adv_hypernet_layers": 3}])
def test_qplex_by_the_formula(keys):
    """algorithms.md 1.9-5 agent by agent, with q̂_i and m̂_i as they stand there."""
    mixer, (q, v, state, joint, obs) = build("qplex", **keys), inputs()
    got, regulariser = mixer.joint(q, v, state, joint, obs)
    lam = mixer.lambdas(state, joint)
    for b, t in ((0, 0), (3, 2)):
        want = 0.0
        for i in range(N):
            w, c = mixer.w(state[b, t])[i].abs() + 1e-10, mixer.c(state[b, t])[i]
            q_hat, m_hat = w * q[b, t, i] + c, w * v[b, t, i] + c
            want += q_hat + (q_hat - m_hat) * (lam[b, t, i] - 1)
        torch.testing.assert_close(got[b, t], want)
    assert (lam > 0).all() and not regulariser.any()


def test_qplex_gradients():
    """q_i, w and c learn through Σ q̂_i alone, λ through the frozen advantages alone, max_a q_i never."""
    mixer, (q, v, state, joint, obs) = build("qplex"), inputs()
    q.requires_grad_()
    v.requires_grad_()
    q_tot, _ = mixer.joint(q, v, state, joint, obs)
    w = mixer.w(state).abs() + 1e-10
    assert torch.autograd.grad(q_tot.sum(), v, retain_graph=True, allow_unused=True) == (None,)
    torch.testing.assert_close(torch.autograd.grad(q_tot.sum(), q, retain_graph=True)[0], w)
    frozen = (w * (q - v)).detach()
    for part, through in (
        (mixer.w, (w * q).sum()),
        (mixer.c, mixer.c(state).sum()),
        (mixer.lambdas, (frozen * mixer.lambdas(state, joint)).sum()),
    ):
        parameters = list(part.parameters())
        got = torch.autograd.grad(q_tot.sum(), parameters, retain_graph=True)
        want = torch.autograd.grad(through, parameters, retain_graph=True)
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_qplex_of_everybodys_best_is_their_sum():
    """Where q_i = max_a q_i no advantage is left: Q_tot = Σ w_i q_i + c_i, whatever λ is."""
    mixer, (q, _, state, joint, obs) = build("qplex"), inputs()
    want = ((mixer.w(state).abs() + 1e-10) * q + mixer.c(state)).sum(-1)
    torch.testing.assert_close(mixer.joint(q, q.clone(), state, joint, obs)[0], want)


def test_qplex_sizes():
    """The release's QPLEX for StarCraft on 2s3z: w, c, and four times one layer for key, agents and actions."""
    spec = EnvSpec(actions=(ActionSpec(11),) * 5, obs_dims=(80,) * 5, state_dim=120, episode_limit=120)
    mixer = MIXERS["qplex"](spec, MIXERS["qplex"].Config())
    weights = 120 * 64 + 64 + 64 * 5 + 5
    lambdas = 4 * (120 + 1) + 4 * (120 * 5 + 5) + 4 * ((120 + 55) * 5 + 5)
    assert sum(p.numel() for p in mixer.parameters()) == 2 * weights + lambdas
