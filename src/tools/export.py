"""``export RUN``: a trained policy as a file that acts for one agent without Cofactor."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cli
from core.config import ConfigError, load, settle

if TYPE_CHECKING:  # torch is loaded only when something is really exported
    from tools.deployed import LocalPolicy
    from tracking.folder import RunFolder

ENDINGS = {"pt2": ".pt2", "onnx": ".onnx"}
"""By format. TorchScript is not among them: torch has deprecated it, in favour of pt2."""


def main(argv: list[str]) -> int:
    """Writes the file and its description; the exit status.

    Raises:
        ConfigError: no such run or checkpoint, a policy that needs the others' observations, or a missing package.
    """
    options = _parser().parse_args(argv)
    from tracking.folder import RunFolder

    folder = RunFolder.open(options.run, options.results_dir)
    out = Path(options.out) if options.out else folder.path / f"policy{ENDINGS[options.format]}"
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError([f"--out: {out} is not a file in a folder that exists"])
    policy, facts = _loaded(folder, best=options.best)
    WRITERS[options.format](policy, out)
    described = out.with_name(f"{out.name}.json")
    described.write_text(json.dumps(facts | {"format": options.format}, indent=2) + "\n", encoding="utf-8")
    print(f"{out} ({out.stat().st_size / 1e6:.2f} MB), described in {described.name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} export",
        description="Writes what a run has learnt as a file for decentralised execution: one agent's observation, last "
        "action, available actions, number and memory in; its greedy action and its memory out.",
    )
    parser.add_argument("run", help="path of the run's folder, or any part of its name that no other run has")
    parser.add_argument("--format", choices=ENDINGS, default="pt2", help="torch.export's (default) or ONNX")
    parser.add_argument("--out", help="the file (default: policy.pt2 or policy.onnx in the run's folder)")
    parser.add_argument("--best", action="store_true", help="the policy that tested best instead of the last one")
    parser.add_argument("--results-dir", default="results", help="where runs are looked for (default: results)")
    return parser


def _loaded(folder: RunFolder, *, best: bool) -> tuple[LocalPolicy, dict[str, Any]]:
    """The policy, acting greedily on the CPU, and what its description says."""
    from tools import trained
    from tools.deployed import LocalPolicy, describe

    recorded = load(folder.config)
    greedy = {"test_greedy": True} if "test_greedy" in recorded else {}
    settings = settle(cli.overlay([(recorded | {"device": "cpu"} | greedy, "the run's config.yaml")]))
    session = trained.load(settings, folder, best=best)
    try:
        policy = LocalPolicy(session.controller)
        origin = {"run": folder.path.name, "name": settings["name"], "trained": session.progress.t_env}
        return policy, origin | {"environment": session.env.label()} | describe(policy)
    finally:
        session.close()


def _pt2(policy: LocalPolicy, out: Path) -> None:
    import torch

    torch.export.save(exported(policy), str(out))


def exported(policy: LocalPolicy) -> Any:
    """The policy as a graph of tensor operations."""
    import torch

    with torch.no_grad():
        return torch.export.export(policy, policy.example())


def _onnx(policy: LocalPolicy, out: Path) -> None:
    import importlib.util

    lacking = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError([f"ONNX needs packages that are not installed: pip install {' '.join(lacking)}"])
    import torch

    from tools.deployed import INPUTS, OUTPUTS

    names = {"input_names": list(INPUTS), "output_names": [OUTPUTS[0], f"{OUTPUTS[1]}_after"]}
    torch.onnx.export(exported(policy), (), str(out), dynamo=True, external_data=False, verbose=False, **names)


WRITERS = {"pt2": _pt2, "onnx": _onnx}
