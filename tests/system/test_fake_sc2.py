"""The stand-in for StarCraft II, driven by pysc2 and by smac as they drive the game itself.

pysc2 comes with requirements-pysc2.txt, smac with requirements-sc2.txt; what needs them is skipped where they are
missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

pytest.importorskip("pysc2", reason="pysc2 is not installed: ./run.sh install pysc2")

from absl import flags
from pysc2 import run_configs
from pysc2.lib import protocol, remote_controller
from s2clientprotocol import common_pb2 as common
from s2clientprotocol import debug_pb2 as debug
from s2clientprotocol import error_pb2 as error
from s2clientprotocol import raw_pb2 as raw
from s2clientprotocol import sc2api_pb2 as api

from envs.skirmish.maps import MAPS, find_map, walkable
from fake_sc2 import Fault, faults, install, journal

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["tests"])
PATIENCE = 30
"""Seconds for a start on a busy machine."""
PAUSE = 0.05
"""Seconds between attempts to connect, for which pysc2 takes one."""
ATTEMPTS = int(PATIENCE / PAUSE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    clock = SimpleNamespace(sleep=lambda _: time.sleep(PAUSE), time=time.time)
    monkeypatch.setattr(remote_controller, "time", clock)
    return install(tmp_path)


@contextmanager
def started() -> Iterator[Any]:
    """A running game as pysc2 starts it; killed in the end."""
    process = run_configs.get().start(want_rgb=False, timeout_seconds=ATTEMPTS)
    popen = process._proc
    try:
        yield process
    finally:
        popen.kill()
        popen.wait()
        process._proc = process._controller = None
        process.close()


def create(name: str = "3m", seed: int = 5) -> api.RequestCreateGame:
    local = api.LocalMap(map_path=f"SMAC_Maps/{name}.SC2Map")
    request = api.RequestCreateGame(local_map=local, realtime=False, random_seed=seed)
    request.player_setup.add(type=api.Participant)
    request.player_setup.add(type=api.Computer, race=common.Terran, difficulty=api.VeryHard)
    return request


def join() -> api.RequestJoinGame:
    return api.RequestJoinGame(race=common.Terran, options=api.InterfaceOptions(raw=True, score=False))


def units(controller: Any) -> list[Any]:
    return list(controller.observe().observation.raw_data.units)


def order(unit: Any, ability: int, **target: Any) -> api.RequestAction:
    command = raw.ActionRawUnitCommand(ability_id=ability, unit_tags=[unit.tag], **target)
    return api.RequestAction(actions=[api.Action(action_raw=raw.ActionRaw(unit_command=command))])


def test_pysc2_plays_a_battle(folder: Path) -> None:
    """From the start to the end of the process, in the order in which SMAC asks."""
    with started() as process:
        controller = process.controller
        assert controller.ping().game_version.startswith("4.10.0")
        assert controller.status is protocol.Status.launched
        assert psutil.Process(process.pid).name() == "SC2_x64"
        with pytest.raises(remote_controller.RequestError, match="InvalidMapPath"):
            controller.create_game(create("no_such_map"))
        controller.create_game(create("3m"))
        assert controller.join_game(join()).player_id == 1
        check_map(controller.game_info().start_raw, "3m")
        check_units(units(controller))
        check_orders(controller)
        check_a_new_battle(controller)
        popen = process._proc
        controller.quit()
        assert popen.wait(PATIENCE) == 0
    assert [line["event"] for line in journal(folder)] == ["start", "quit"]


def check_map(start: Any, name: str) -> None:
    grid = walkable(find_map(name).terrain)
    bits = [
        [byte >> (7 - i) & 1 for byte in start.pathing_grid.data[4 * y : 4 * y + 4] for i in range(8)]
        for y in range(32)
    ]
    assert start.pathing_grid.bits_per_pixel == 1
    assert (start.map_size.x, start.map_size.y, start.playable_area.p1.x) == (32, 32, 32)
    assert bits == grid.T.tolist()
    assert len(start.terrain_height.data) == 32 * 32


def check_units(seen: list[Any]) -> None:
    ours, theirs = [u for u in seen if u.owner == 1], [u for u in seen if u.owner == 2]
    assert (len(ours), len(theirs)) == (3, 3)
    assert {u.alliance for u in ours} == {raw.Self}
    assert {u.unit_type for u in theirs} == {48}
    assert len({u.tag for u in seen}) == 6
    for unit in seen:
        assert (unit.health, unit.health_max, unit.shield_max) == (45.0, 45.0, 0.0)
        assert unit.pos.x == pytest.approx(9.0 if unit.owner == 1 else 23.0, abs=1.5)


def check_orders(controller: Any) -> None:
    """Moves are carried out at a Marine's speed of 2.25 cells a second, attacks on what is in reach."""
    first = units(controller)[0]
    goal = common.Point2D(x=first.pos.x, y=first.pos.y + 2.0)
    assert controller.actions(order(first, 16, target_world_space_pos=goal)).result == [error.Success]
    assert controller.step(8).simulation_loop == 8
    moved = units(controller)[0]
    assert moved.tag == first.tag
    assert moved.pos.y - first.pos.y == pytest.approx(2.25 / 2, abs=1e-3)
    enemy = next(u for u in units(controller) if u.owner == 2)
    assert controller.actions(order(moved, 23, target_unit_tag=enemy.tag)).result == [error.Success]
    assert units(controller)[0].orders[0].target_unit_tag == enemy.tag
    assert controller.actions(order(moved, 23, target_unit_tag=12345)).result == [error.Error]
    assert controller.actions(order(enemy, 4)).result == [error.Error]  # not ours
    for _ in range(30):
        controller.step(8)
    assert min(u.health for u in units(controller)) < 45.0


def check_a_new_battle(controller: Any) -> None:
    """Where nobody is left the map brings everybody back, with new tags."""
    old = {u.tag for u in units(controller)}
    controller.debug(debug.DebugCommand(kill_unit=debug.DebugKillUnit(tag=old)))
    assert units(controller) == []
    controller.step(2)
    check_units(units(controller))
    assert not old & {u.tag for u in units(controller)}


def test_a_game_is_alone_in_what_it_does_not_know(folder: Path) -> None:
    """Unknown requests and those out of turn are errors of the protocol, and the game goes on."""
    with started() as process:
        client = process.controller._client
        with pytest.raises(protocol.ProtocolError, match="does not answer 'quick_save'"):
            client.send(quick_save=api.RequestQuickSave())
        with pytest.raises(protocol.ProtocolError, match="'step' is not possible in status launched"):
            client.send(step=api.RequestStep(count=1))
        assert process.controller.ping().base_build == 75689


def test_a_running_game_is_told_to_fail(folder: Path) -> None:
    """An error, a slow answer and a dropped connection, after which the game serves the next client."""
    with started() as process:
        controller = process.controller
        faults.write(folder, [Fault("error", "ping", at=1), Fault("slow", "ping", at=2, seconds=0.3)])
        with pytest.raises(protocol.ProtocolError, match="told to fail"):
            controller.ping()
        before = time.monotonic()
        controller.ping()
        assert time.monotonic() - before >= 0.3
        faults.write(folder, [Fault("drop", "ping", at=3)])
        with pytest.raises(protocol.ConnectionError):
            controller.ping()
        assert process.running
        again = remote_controller.RemoteController(process.host, process.port, process, timeout_seconds=ATTEMPTS)
        assert again.ping().base_build == 75689
    assert [line["kind"] for line in journal(folder) if line["event"] == "fault"] == ["error", "slow", "drop"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault("crash", "available_maps", at=0), -signal.SIGKILL), (Fault("exit", "available_maps", at=0, code=7), 7)],
)
def test_a_game_ends_by_itself(folder: Path, fault: Fault, code: int) -> None:
    faults.write(folder, [fault])
    with started() as process:
        with pytest.raises(protocol.ConnectionError):
            process.controller.available_maps()
        assert process._proc.wait(PATIENCE) == code


@pytest.mark.parametrize("kind", ["hang", "stall"])
def test_a_game_answers_no_more(folder: Path, kind: Any) -> None:
    """The process lives on, deaf to SIGTERM where it is told to be stubborn."""
    faults.write(folder, [Fault(kind, "available_maps", at=0, stubborn=True)])
    with started() as process:
        process.controller._client._sock.settimeout(1.0)
        with pytest.raises(protocol.ConnectionError, match="timed out"):
            process.controller.available_maps()
        process._proc.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process._proc.wait(0.3)


def test_a_game_refuses_to_start(folder: Path) -> None:
    """The second start succeeds: the fault is for the first one only."""
    faults.write(folder, [Fault("exit", "start", at=0, starts=(0,))])
    with pytest.raises(remote_controller.ConnectError):
        run_configs.get().start(want_rgb=False, timeout_seconds=ATTEMPTS)
    with started() as process:
        process.controller.ping()
    assert [line["number"] for line in journal(folder) if line["event"] == "start"] == [0, 1]


def random_faults(folder: Path, number: int) -> list[int]:
    """At which of 500 steps the game with a number would fail."""
    faults.write(folder, [Fault("crash", probability=0.02)], seed=4)
    teller = faults.Faults(folder, 1, number)
    return [step for step in range(500) if teller.due("step")]


def test_random_faults_are_drawn_from_the_seed_and_the_start(tmp_path: Path) -> None:
    install(tmp_path)
    drawn = [random_faults(tmp_path, number) for number in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 2 <= len(drawn[0]) <= 25


# ---------------------------------------------------------------- through smac and smacv2

SMACS = [name for name in MAPS if not name.endswith("_myopic")]
QUICK = ("MMM",)
TESTS = Path(__file__).resolve().parents[1]


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"{package} is not installed: ./run.sh install sc2"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


needs_smac, needs_smacv2 = needs("smac"), needs("smacv2")


def run(module: str, *arguments: object) -> list[dict[str, Any]]:
    """The lines of JSON that one of the stand-in's programs prints."""
    paths = os.pathsep.join((str(TESTS), str(TESTS.parent / "src")))
    command = [sys.executable, "-m", f"fake_sc2.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@needs_smac
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SMACS])
def test_smac_plays_the_battle_that_skirmish_plays(folder: Path, name: str) -> None:
    """SMAC's own environment on the stand-in goes the way of our native one, over the ends of episodes."""
    (apart,) = run("lockstep", name)
    assert apart.pop("map") == name and apart.pop("episodes") == 3 and apart.pop("steps") > 20
    assert apart.pop("reward") < 1e-5  # SMAC counts in 64 bits
    names = ("avail_actions", "obs", "state", "ends", "battle_won", "dead_allies", "dead_enemies")
    assert apart == dict.fromkeys(names, 0.0)
    assert [line["event"] for line in journal(folder)] == ["start", "quit"]


@needs_smac
@pytest.mark.slow
def test_other_seeds_make_other_battles(folder: Path) -> None:
    """So that the comparison above can fail."""
    (apart,) = run("lockstep", "3m", 1, 3, 4)
    assert apart["obs"] > 1e-3 and apart["state"] > 1e-3


@needs_smacv2
@pytest.mark.parametrize("race", ["terran", *[pytest.param(r, marks=pytest.mark.slow) for r in ("protoss", "zerg")]])
def test_smacv2_creates_its_units(folder: Path, race: str) -> None:
    """SMACv2's own environment plays episodes to their ends with units that it creates and kills."""
    episodes = run("generated", race)
    assert [(e["sizes"], e["unhurt"]) for e in episodes] == [([5, 6], True)] * 3
    assert sum(e["dead_allies"] + e["dead_enemies"] for e in episodes) >= 10  # they have met and fought
