"""Fixtures of all tests. Annotated shapes and types in ``src/`` are enforced while tests run, at no cost otherwise."""

from __future__ import annotations

import torch
from jaxtyping import install_import_hook

install_import_hook(
    ["core", "stats", "rl", "modules", "envs", "memory", "controllers", "learners", "runners"], "beartype.beartype"
)
torch.set_num_threads(1)
