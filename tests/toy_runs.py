"""Run folders with a checkpoint, for tests of what comes after training."""

from __future__ import annotations

from pathlib import Path

import yaml

from core import checkpoint, cli
from run import build
from tracking.folder import RunFolder

KEYS = ("t_max=100", "device=cpu")
OF_ITS_OWN = {"qmix": ("buffer_size=32", "epsilon_finish=1.0"), "mappo": ("mac=gaussian_mac",)}


def run_of(where: Path, env: str, *keys: str, seed: int, algorithm: str = "qmix") -> RunFolder:
    """A run whose networks have learnt nothing yet; ``mappo`` acts in boxes."""
    words = [f"--config={algorithm}", f"--env-config={env}", "with", *KEYS, *OF_ITS_OWN[algorithm], *keys]
    words += [f"seed={seed}", f"results_dir={where}"]
    settings = cli.compose(cli.parse(words))
    session = build(settings)
    folder = RunFolder.create(settings, session.env.label())
    folder.config.write_text(yaml.safe_dump(settings.plain()))
    checkpoint.save(folder.checkpoint, {"session": session.state_dict(), "tracker": {}})
    session.close()
    return folder
