"""What a run's record says when it is over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from patience import wait_for
from tracking import experiment
from tracking.experiment import execute
from tracking.folder import RunFolder
from tracking.record import Interrupted
from tracking.saving import restore


@pytest.fixture
def settings(tmp_path):
    return {"name": "a", "seed": 1, "t_max": 100, "results_dir": str(tmp_path), "tensorboard": False}


@pytest.fixture
def folder(settings):
    return RunFolder.create(settings, "x")


@pytest.mark.parametrize(
    ("error", "status"), [(None, "COMPLETED"), (Interrupted(15), "INTERRUPTED"), (ValueError("no"), "FAILED")]
)
def test_it_has_the_steps_reached(settings, folder, error, status, monkeypatch):
    monkeypatch.setattr(experiment, "BEAT_SECONDS", 0.01)

    def body(tracker):
        tracker.progress(10, 2)
        assert wait_for(lambda: folder.record.get("t_env") == 10)
        tracker.progress(25, 5)  # long before the record's next heartbeat
        if error is not None:
            raise error

    assert execute(settings, folder, body) == status
    assert (folder.record["status"], folder.record["t_env"]) == (status, 25)


def test_a_resumed_run_that_fails_at_once_has_those_of_its_checkpoint(settings, folder):
    session = SimpleNamespace(progress=SimpleNamespace(t_env=0, episode=0))

    def load(state):
        session.progress = SimpleNamespace(**state)

    session.load_state_dict = load
    saved = {}
    assert execute(settings, folder, lambda tracker: saved.update(tracker.state_dict())) == "COMPLETED"

    def rest(tracker):
        restore(session, tracker, {"session": {"t_env": 50, "episode": 3}, "tracker": saved})
        raise ValueError("no")

    assert execute(settings, folder, rest, resume=True) == "FAILED"
    assert folder.record["t_env"] == 50
