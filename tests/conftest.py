"""Fixtures of all tests. Annotated shapes and types in ``src/`` are enforced while tests run, at no cost otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

from browser import Chromium, find

install_import_hook(
    ["core", "stats", "rl", "modules", "envs", "memory", "controllers", "learners", "runners", "many"],
    "beartype.beartype",
)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()
