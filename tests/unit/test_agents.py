"""Agents, and the pair of independent and dependent outputs (AC-11)."""

import itertools

import pytest
import torch
from torch.nn.functional import elu, one_hot

from core.registry import AGENTS
from core.specs import ActionSpec, EnvSpec
from modules.agents.conditional import ConditionalHead
from modules.layers import last_actions

B, T, N, A, WIDTH = 2, 4, 3, 3, 5
SPEC = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(WIDTH,) * N, state_dim=4, episode_limit=T)
H = 8


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def agent(name="rnn"):
    torch.manual_seed(1)
    return AGENTS[name](SPEC, AGENTS[name].Config(hidden_dim=H))


def observations():
    obs = torch.randn(B, T, N, WIDTH, generator=rng(1))
    return obs, last_actions(torch.randint(A, (B, T - 1, N), generator=rng(2)), A)


def actions(seed=3):
    return torch.randint(A, (B, T, N), generator=rng(seed))


@pytest.mark.parametrize("name", ["rnn", "mlp"])
class TestAgents:
    def test_output_is_the_head_of_the_features(self, name):
        net, x = agent(name), observations()
        features, hidden = net.encode(*x, net.initial_hidden(B))
        out, after = net(*x)
        assert out.shape == (B, T, N, A) and features.shape == (B, T, N, H) and hidden.shape == (B, N, H)
        torch.testing.assert_close(out, net.head(features))
        assert torch.equal(hidden, after) and (net.initial_hidden(B) == 0).all()

    def test_acting_step_by_step_equals_the_unroll(self, name):
        net, (obs, last) = agent(name), observations()
        hidden, steps = net.initial_hidden(B), []
        for t in range(T):
            out, hidden = net(obs[:, t : t + 1], last[:, t : t + 1], hidden)
            steps.append(out)
        torch.testing.assert_close(torch.cat(steps, 1), net(obs, last)[0])

    def test_an_agent_sees_its_own_inputs_and_number_only(self, name):
        net, (obs, last) = agent(name), observations()
        before = net(obs, last)[0]
        obs = obs.clone()
        obs[:, :, 1] += 1
        changed = (net(obs, last)[0] != before).any(-1).any(0)
        assert changed[:, 1].all() and not changed[:, [0, 2]].any()
        same = torch.ones(1, 1, N, WIDTH)
        out = net(same, torch.zeros(1, 1, N, A))[0][0, 0]
        assert not torch.allclose(out[0], out[1])  # T-34: the number is in the input

    def test_lengths_and_nan_padding(self, name):
        net, (obs, last) = agent(name), observations()
        length = torch.tensor([2, T])
        want = net(obs, last)[0]
        obs[0, 2:] = torch.nan
        got = net(obs, last, None, length)[0]
        torch.testing.assert_close(got[0, :2], want[0, :2])
        torch.testing.assert_close(got[1], want[1])
        assert got.isfinite().all()

    def test_state_round_trip(self, name):
        net, x = agent(name), observations()
        torch.manual_seed(99)
        other = AGENTS[name](SPEC, AGENTS[name].Config(hidden_dim=H))
        assert not torch.equal(other(*x)[0], net(*x)[0])
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(*x)[0], net(*x)[0])


@pytest.fixture(params=["rnn", "mlp"])
def head(request):
    torch.manual_seed(1)
    return ConditionalHead(SPEC, agent(request.param))


def visibility():
    return torch.rand(B, T, N, N, generator=rng(9)) < 0.5


class TestConditionalHead:
    def test_by_the_formula(self, head):
        h, joint, seen = torch.randn(B, T, N, H, generator=rng()), actions(), visibility()
        for visible in (None, seen):
            got = head.dependent(h, joint, visible)
            for i in range(N):
                d = torch.zeros(B, T, H)
                for j in range(i):
                    number = torch.eye(N)[j].expand(B, T, N)
                    message = elu(head.embed(torch.cat([number, one_hot(joint[:, :, j], A).float()], -1)))
                    d += message if visible is None else message * visible[:, :, i, j, None]
                correction = head.correct(torch.cat([h[:, :, i], d / N], -1))
                torch.testing.assert_close(got[:, :, i], head.agent.head(h[:, :, i]) + correction)

    @pytest.mark.parametrize("visible", [None, visibility()])
    def test_incremental_form_equals_the_full_one(self, head, visible):
        h, joint = torch.randn(B, T, N, H, generator=rng()), actions()
        full, (first, alone) = head.dependent(h, joint, visible), head.unheard(h)
        for i, told in enumerate(head.messages()):
            torch.testing.assert_close(head.given(first[:, :, i], alone[:, :, i]), full[:, :, i])
            message = told[joint[:, :, i]][:, :, None]
            reads = torch.arange(N)[:, None] > i if visible is None else visible[..., i, None]
            first = first + message * reads * (torch.arange(N)[:, None] > i)

    def test_reads_earlier_agents_only(self, head):
        """AC-11 a: row j of the joint action moves the outputs behind j and no others."""
        h, joint = torch.randn(B, T, N, H, generator=rng()), actions()
        before = head.dependent(h, joint)
        for j in range(N):
            other = joint.clone()
            other[:, :, j] = (joint[:, :, j] + 1) % A
            changed = (head.dependent(h, other) != before).any(-1)
            assert not changed[:, :, : j + 1].any() and changed[:, :, j + 1 :].all()

    def test_reads_visible_agents_only(self, head):
        h, joint = torch.randn(B, T, N, H, generator=rng()), actions()
        seen = torch.ones(B, T, N, N, dtype=torch.bool)
        seen[:, :, 2, 0] = False
        other = joint.clone()
        other[:, :, 0] = (joint[:, :, 0] + 1) % A
        changed = (head.dependent(h, other, seen) != head.dependent(h, joint, seen)).any(-1)
        assert changed[:, :, 1].all() and not changed[:, :, 2].any()
        assert torch.equal(head.dependent(h, joint, torch.ones_like(seen)), head.dependent(h, joint))

    def test_the_first_agent_reads_its_own_history_only(self, head):
        """AC-11 b."""
        h = torch.randn(B, T, N, H, generator=rng())
        first, alone = head.unheard(h)
        unheard = head.given(first, alone)[:, :, 0]
        torch.testing.assert_close(head.dependent(h, actions(), visibility())[:, :, 0], unheard)
        assert not torch.allclose(unheard, head.independent(h)[:, :, 0])

    def test_gradients_are_kept_apart(self, head):
        """AC-11 c: dependent losses move the correction only, independent ones everything else."""
        names = {name for name, _ in head.named_parameters()}
        correction = {n for n in names if n.startswith(("embed", "correct"))}
        h, _ = head.encode(*observations())
        for loss, moves in ((head.dependent(h, actions()), correction), (head.independent(h), names - correction)):
            head.zero_grad()
            loss.square().sum().backward(retain_graph=True)
            moved = {n for n, p in head.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
            untouched = {n for n, p in head.named_parameters() if p.grad is None}
            assert moved == moves and untouched == names - moves

    def test_joint_policy_is_a_distribution(self, head):
        """AC-11 d: the conditionals' product sums to 1 over all joint actions."""
        h, total = torch.randn(1, 1, N, H, generator=rng()), 0.0
        for joint in itertools.product(range(A), repeat=N):
            log_pi = head.dependent(h, torch.tensor(joint)[None, None]).log_softmax(-1)[0, 0]
            total += log_pi[range(N), joint].sum().exp().item()
        assert total == pytest.approx(1, abs=1e-5)

    def test_independent_output_is_the_agents(self, head):
        x = observations()
        h, hidden = head.encode(*x, head.initial_hidden(B))
        out, last = head.agent(*x)
        assert torch.equal(head.independent(h), out) and torch.equal(hidden, last)

    def test_without_the_dependent_output_there_is_only_the_agent(self, head):
        control = ConditionalHead(SPEC, head.agent, dependent=False)
        assert {n for n, _ in control.named_parameters()} == {f"agent.{n}" for n, _ in head.agent.named_parameters()}
        x = observations()
        assert torch.equal(control.independent(control.encode(*x)[0]), head.agent(*x)[0])


class TestMemory:
    def test_without_the_last_action_nothing_depends_on_it(self):
        net = AGENTS["mlp"](SPEC, AGENTS["mlp"].Config(hidden_dim=H, last_action=False))
        obs, last = observations()
        assert torch.equal(net(obs, last)[0], net(obs, 1 - last)[0])
        assert net.memoryless

    @pytest.mark.parametrize("name", ["rnn", "mlp", "ppo"])
    def test_others_have_a_memory(self, name):
        assert not agent(name).memoryless
