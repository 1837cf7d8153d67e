"""``export``: the exported policy does what the trained team does, over whole episodes, from what one agent sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import main
from core.config import ConfigError, Settings, load, merge, resolve
from core.specs import Trim
from run import Session, build
from tools.deployed import LocalPolicy
from tools.export import exported
from toy import acts_in_a_box
from toy_runs import run_of

ALGS = Path(__file__).parents[2] / "config" / "algs"
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "basic_mac": ("qmix", {}),
    "basic_mac, of unlike agents": ("vdn", {"env_args": {"unlike": True, "garbage": True}}),
    "policy_mac": ("mappo", {}),
    "policy_mac, memoryless": ("f2a2_isac", {}),
    "policy_mac, separate": ("mappo", {"share_parameters": False}),
    "conditional_mac": ("macpf", {}),
    "deterministic_mac": ("maddpg_continuous", {}),
    "gaussian_mac": ("mappo", {"mac": "gaussian_mac"}),
    "squashed_mac": ("fop_continuous", {}),
}
QUICK, SLOW = ("basic_mac", "policy_mac, separate", "conditional_mac", "deterministic_mac"), pytest.mark.slow


def settings(name: str, **changes: Any) -> Settings:
    config = load(ALGS / f"{name}.yaml") | {"env": "toy", "seed": 5, "batch_size_run": 4} | changes
    return resolve(merge(config, {"env_args": {"box": True}}) if acts_in_a_box(resolve(config)) else config)


def made(name: str, **changes: Any) -> Session:
    """A run whose networks are far from their nearly equal first outputs."""
    session = build(settings(name, **changes))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in session.controller.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=rng))
    return session


def alone(program: Any, obs: Tensor, last: Tensor, avail: Tensor, memory: Tensor) -> list[Tensor]:
    """Every agent of every row by itself; actions and memories together again."""
    b, n = obs.shape[:2]
    calls = [
        program(obs[k, i], last[k, i], avail[k, i], torch.tensor(i), memory[k, i]) for k in range(b) for i in range(n)
    ]
    return [torch.stack(list(parts)).unflatten(0, (b, n)) for parts in zip(*calls, strict=True)]


def played(session: Session, program: Any) -> tuple[int, Tensor]:
    """Whole episodes of the team, and beside it every agent on its own; the steps, and all actions."""
    env, spec, controller = session.env, session.env.spec, session.controller
    b, n = env.n_envs, spec.n_agents
    trim, step = Trim(spec, "cpu"), env.reset()
    step = trim(step)
    last, hidden = torch.zeros(b, n, spec.n_actions), controller.initial_hidden(b)
    memory = hidden
    running, taken, rng = torch.ones(b, dtype=torch.bool), [], torch.Generator()
    for _ in range(spec.episode_limit):
        acted = controller.act(step, last, hidden, t_env=0, mode=controller.test_modes[0], rng=rng)
        own, memory = alone(program, step.obs, last, step.avail, memory)
        torch.testing.assert_close(own, acted.action, rtol=0, atol=0 if spec.discrete else 1e-4)
        torch.testing.assert_close(memory, acted.hidden, rtol=1e-3, atol=1e-4)
        taken.append(acted.action)
        outcome = env.step(acted.action)
        step, hidden = trim(outcome.next), acted.hidden
        last = one_hot(acted.action, spec.n_actions).float() if spec.discrete else acted.action
        running &= ~(outcome.terminated | outcome.truncated)
        if not running.any():
            break
    return len(taken), torch.stack(taken)


@pytest.mark.parametrize("family", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in FAMILIES])
@torch.no_grad()
def test_each_agent_alone_acts_as_the_team(family: str):
    name, changes = FAMILIES[family]
    session = made(name, **changes)
    assert session.settings["mac"] == family.partition(",")[0]
    program = exported(LocalPolicy(session.controller)).module()
    steps, actions = played(session, program)
    assert steps > 1 and len(actions.flatten(0, 2).unique(dim=0)) > 1, "a test of one action over and over"
    session.close()


def test_a_wrong_number_or_memory_is_noticed():
    session = made("qmix")
    policy = LocalPolicy(session.controller)
    _, last, avail, agent, hidden = policy.example()
    obs = torch.randn(session.env.spec.obs_dim, generator=torch.Generator().manual_seed(2))
    right = policy(obs, last, avail, agent, hidden)[1]
    assert not torch.allclose(right, policy(obs, last, avail, agent + 1, hidden)[1])
    assert not torch.allclose(right, policy(obs, last, avail, agent, hidden + 0.5)[1])
    session.close()


def test_unavailable_actions_are_never_taken():
    session = made("qmix")
    policy = LocalPolicy(session.controller)
    obs, last, avail, agent, hidden = policy.example()
    taken = []
    while avail.any():
        taken.append(int(policy(obs, last, avail, agent, hidden)[0]))
        avail[taken[-1]] = False
    assert sorted(taken) == list(range(len(avail)))
    session.close()


def test_agents_that_talk_cannot_be_exported():
    session = made("dop_comm")
    with pytest.raises(ConfigError, match="comm_mac cannot be exported for one agent"):
        LocalPolicy(session.controller)
    session.close()


def test_the_command_writes_a_file_that_needs_no_cofactor(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = run_of(tmp_path, "multi_goal", seed=3)
    assert main.main(["export", str(folder.path)]) == 0
    path = folder.path / "policy.pt2"
    assert str(path) in capsys.readouterr().out
    facts = json.loads((folder.path / "policy.pt2.json").read_text())
    assert facts["run"] == folder.path.name and facts["format"] == "pt2"
    program = torch.export.load(str(path)).module()
    inputs = facts["inputs"]
    given = [
        torch.zeros(tuple(shape), dtype=getattr(torch, kind)) if kind != "bool" else torch.ones(tuple(shape)).bool()
        for kind, *shape in inputs.values()
    ]
    action, hidden = program(*given)
    assert action.shape == () and list(hidden.shape) == inputs["hidden"][1:]


def test_onnx_is_refused_with_the_remedy_where_it_is_not_installed(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = run_of(tmp_path, "multi_goal", seed=3)
    assert main.main(["export", str(folder.path), "--format", "onnx"]) == 2
    assert "pip install onnx onnxscript" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_acts_as_the_team(tmp_path: Path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install onnx onnxscript onnxruntime)")
    import onnxruntime

    from tools.export import WRITERS

    session = made("qmix")
    WRITERS["onnx"](LocalPolicy(session.controller), tmp_path / "policy.onnx")
    running = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    names = [x.name for x in running.get_inputs()]

    def program(*inputs: Tensor) -> list[Tensor]:
        return [
            torch.from_numpy(x) for x in running.run(None, {k: x.numpy() for k, x in zip(names, inputs, strict=True)})
        ]

    with torch.no_grad():
        played(session, program)
    session.close()
