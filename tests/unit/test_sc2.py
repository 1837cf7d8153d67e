"""The sc2 environment's configuration: engines, options, maps and the sizes of what agents see."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from core.registry import ENVS
from envs.fleet import Care
from envs.sc2 import StarCraft2
from envs.skirmish.maps import MAPS
from envs.skirmish.options import Options, max_reward, sizes
from envs.skirmish.scene import without_missing_driver

# map, agents, enemies, limit, type bits, actions, observation, state, unscaled maximal reward
SMAC = """
3m 3 3 60 0 9 30 48 365
8m 8 8 120 0 14 80 168 640
25m 25 25 150 0 31 250 950 1575
5m_vs_6m 5 6 70 0 12 55 98 530
8m_vs_9m 8 9 120 0 15 85 179 695
10m_vs_11m 10 11 150 0 17 105 243 805
27m_vs_30m 27 30 180 0 36 285 1170 1850
MMM 10 10 150 3 16 160 290 1015
MMM2 10 12 180 3 18 176 322 1205
2s3z 5 5 120 2 11 80 120 1020
3s5z 8 8 150 2 14 128 216 1510
3s5z_vs_3s6z 8 9 170 2 15 136 230 1670
3s_vs_3z 3 3 150 0 9 36 54 680
3s_vs_4z 3 4 200 0 10 42 61 840
3s_vs_5z 3 5 250 0 11 48 68 1000
1c3s5z 9 9 180 3 15 162 270 1870
2m_vs_1z 2 1 150 0 7 16 26 360
corridor 6 24 400 0 30 156 282 1280
6h_vs_8z 6 8 150 0 14 78 140 1480
2s_vs_1sc 2 1 300 0 7 17 27 510
so_many_baneling 7 32 100 0 38 202 397 1480
bane_vs_bane 24 24 200 2 30 336 984 1260
2c_vs_64zg 2 64 400 0 70 332 342 3080
8m_vs_9m_myopic 8 9 120 0 15 50 179 695
10m_vs_11m_myopic 10 11 150 0 17 60 243 805
"""

# upstream's constructor, argument by argument, with its defaults
ARGUMENTS = {
    "map_name": "8m", "step_mul": 8, "move_amount": 2, "difficulty": "7", "game_version": None, "seed": None,
    "continuing_episode": False, "obs_all_health": True, "obs_own_health": True, "obs_last_action": False,
    "obs_pathing_grid": False, "obs_terrain_height": False, "obs_instead_of_state": False,
    "obs_timestep_number": False, "state_last_action": True, "state_timestep_number": False, "reward_sparse": False,
    "reward_only_positive": True, "reward_death_value": 10, "reward_win": 200, "reward_defeat": 0,
    "reward_negative_scale": 0.5, "reward_scale": True, "reward_scale_rate": 20, "replay_dir": "",
    "replay_prefix": "", "window_size_x": 1920, "window_size_y": 1200, "heuristic_ai": False, "heuristic_rest": False,
    "debug": False,
}  # fmt: skip
REFUSED = {
    "game_version": "4.10", "seed": 1, "obs_terrain_height": True, "replay_dir": "replays", "replay_prefix": "run",
    "window_size_x": 640, "window_size_y": 480, "debug": True,
}  # fmt: skip


def config(**args: Any) -> StarCraft2.Config:
    return StarCraft2.Config(**{"engine": "skirmish", "map_name": "3m"} | args)


def lines() -> list[str]:
    return SMAC.strip().splitlines()


@pytest.mark.parametrize("line", lines())
def test_every_map_has_the_sizes_of_smac(line: str) -> None:
    name, *numbers = line.split()
    m = MAPS[name]
    size = sizes(m, Options())
    shown = [m.n_agents, m.n_enemies, m.limit, m.bits, size.n_actions, size.obs, size.state, max_reward(m, Options())]
    assert shown == [int(x) for x in numbers]


def test_all_23_maps_and_the_myopic_two() -> None:
    assert set(MAPS) == {line.split()[0] for line in lines()}


def test_the_pages_table_of_maps() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments" / "sc2.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    told = {row[0]: row[1:] for row in rows if len(row) == 7 and row[0] in MAPS}
    assert list(told) == list(MAPS)
    for name, (agents, enemies, *numbers) in told.items():
        m, size = MAPS[name], sizes(MAPS[name], Options())
        assert [int(x) for x in numbers] == [m.limit, size.n_actions, size.obs, size.state]
        teams = [", ".join(f"{n} {k.replace('_', ' ').title()}" for k, n in team) for team in (m.allies, m.enemies)]
        assert [agents, agents if enemies == "the same" else enemies] == teams


@pytest.mark.parametrize("name", MAPS)
def test_maps_build_with_the_sizes_they_announce(name: str) -> None:
    env = StarCraft2(config(map_name=name), 1, "cpu", 0)
    shown = env.reset()
    assert shown.obs.shape == (1, env.spec.n_agents, env.spec.obs_dim)
    assert shown.state.shape == (1, env.spec.state_dim)
    assert shown.avail.shape == (1, env.spec.n_agents, env.spec.n_actions)
    assert env.spec.episode_limit == MAPS[name].limit
    assert env.spec.unit_dim == 4 + (MAPS[name].races[0] == "P") + MAPS[name].bits
    assert env.spec.metrics == ("battle_won", "dead_allies", "dead_enemies")
    assert env.label() == f"sc2-skirmish/{name}"


@pytest.mark.parametrize(
    ("args", "obs", "state"),
    [
        ({"obs_all_health": False}, 80 - 9 * 2, 120),
        ({"obs_all_health": False, "obs_own_health": False}, 80 - 10 * 2, 120),
        ({"obs_last_action": True}, 80 + 4 * 11, 120),
        ({"obs_pathing_grid": True}, 88, 120),
        ({"obs_timestep_number": True}, 82, 120),
        ({"state_last_action": False}, 80, 120 - 55),
        ({"state_timestep_number": True}, 80, 121),
        ({"obs_instead_of_state": True}, 80, 400),
        ({"obs_allies": "drop"}, 80 - 4 * 8, 120),
        ({"obs_allies": "drop", "obs_last_action": True}, 80 - 4 * 8, 120),
        ({"obs_allies": "zero", "obs_last_action": True}, 80 + 4 * 11, 120),
    ],
)
def test_options_change_the_sizes(args: dict[str, Any], obs: int, state: int) -> None:
    env = StarCraft2(config(map_name="2s3z", **args), 1, "cpu", 0)
    shown = env.reset()
    assert (shown.obs.shape[-1], shown.state.shape[-1]) == (obs, state) == (env.spec.obs_dim, env.spec.state_dim)


def test_every_argument_of_upstream_has_its_default() -> None:
    defaults = vars(StarCraft2.Config())
    assert {name: defaults[name] for name in ARGUMENTS} == ARGUMENTS
    care = {field.name for field in fields(Care)}
    assert set(defaults) - set(ARGUMENTS) == {"engine", "sight_range", "obs_allies"} | care


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_here_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=f"^the skirmish engine cannot honour {name}: "):
        StarCraft2.settle(config(**{name: REFUSED[name]}))


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name not in REFUSED])
def test_every_other_argument_is_accepted(name: str) -> None:
    value = ARGUMENTS[name]
    other = {"map_name": "8m", "difficulty": "A", "step_mul": 4}.get(name)
    if other is None:
        other = not value if isinstance(value, bool) else value + 0.5
    settled = StarCraft2.settle(config(**{"heuristic_ai": name == "heuristic_rest"} | {name: other}))
    assert getattr(settled, name) == other


def test_the_map_says_what_the_options_leave_open() -> None:
    plain = StarCraft2.settle(config(map_name="8m_vs_9m"))
    assert (plain.sight_range, plain.obs_allies) == (9.0, "full")
    myopic = StarCraft2.settle(config(map_name="8m_vs_9m_myopic"))
    assert (myopic.sight_range, myopic.obs_allies) == (6.0, "drop")
    asked = StarCraft2.settle(config(map_name="8m_vs_9m_myopic", sight_range=9.5, obs_allies="full"))
    assert (asked.sight_range, asked.obs_allies) == (9.5, "full")
    with pytest.raises(ValueError, match="sight_range must be above 0, not 0"):
        StarCraft2.settle(config(sight_range=0.0))


def test_env_info_has_upstreams_keys() -> None:
    info = StarCraft2(config(map_name="2m_vs_1z"), 1, "cpu", 0).get_env_info()
    assert info == {
        "state_shape": 26, "obs_shape": 16, "n_actions": 7, "n_agents": 2, "episode_limit": 150,
        "agent_features": ["health", "energy/cooldown", "rel_x", "rel_y"],
        "enemy_features": ["health", "rel_x", "rel_y", "shield"],
    }  # fmt: skip
    info = StarCraft2(config(map_name="2s3z"), 1, "cpu", 0).get_env_info()
    assert info["agent_features"][4:] == info["enemy_features"][3:] == ["shield", "type_0", "type_1"]


def test_misspelt_map() -> None:
    with pytest.raises(ValueError, match=r"unknown map '2s3x'.*Did you mean '2s3z'"):
        StarCraft2.settle(config(map_name="2s3x"))


def test_all_option_problems_at_once() -> None:
    bad = config(
        game_version="4.10", obs_terrain_height=True, move_amount=-0.5, heuristic_rest=True, difficulty="X",
        obs_pathing_grid=True,
    )  # fmt: skip
    with pytest.raises(ValueError) as error:
        StarCraft2.settle(bad)
    for word in (
        "game_version",
        "obs_terrain_height",
        "move_amount",
        "heuristic_rest needs",
        "difficulty",
        "whole move_amount",
    ):
        assert word in str(error.value)


def test_starcraft2_engine_names_what_is_missing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    with pytest.raises(ValueError) as error:
        StarCraft2.settle(config(engine="starcraft2"))
    for word in ("StarCraft II is not found", "SC2PATH", "./install_sc2.sh", "smac is another project"):
        assert word in str(error.value)


def installation(where: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders and files that are looked at, of a game 4.10 with one map, SMAC, and what both need."""
    for build in (69232, 75689):
        binary = where / "Versions" / f"Base{build}" / "SC2_x64"
        binary.parent.mkdir(parents=True)
        binary.write_text("")
        binary.chmod(0o755)
    (where / "Maps" / "SMAC_Maps").mkdir(parents=True)
    (where / "Maps" / "SMAC_Maps" / "8m_vs_9m.SC2Map").write_text("")
    site = where / "site"
    for folder in ("smac/env/starcraft2", "pysc2/run_configs", "s2clientprotocol", "websocket"):
        (site / folder).mkdir(parents=True)
    known = [("4.6.2", 69232), ("4.10.0", 75689), ("5.0.9", 87702)]
    lines = [f'    Version("{version}", {build}, "D1A6", None),' for version, build in known]
    (site / "pysc2" / "run_configs" / "lib.py").write_text("\n".join(lines))
    monkeypatch.setenv("SC2PATH", str(where))
    monkeypatch.setattr("sys.path", [str(site), *sys.path])
    return where


def test_found_game_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation(tmp_path, monkeypatch)
    for engine in ("auto", "starcraft2"):
        settled = StarCraft2.settle(config(engine=engine, map_name="8m_vs_9m_myopic", obs_terrain_height=True))
        assert (settled.engine, settled.game_version, settled.sight_range) == ("starcraft2", "4.10", 6.0)
        assert StarCraft2.settle(settled) == settled
    options = StarCraft2.upstream(settled)
    assert (options["map_name"], options["obs_terrain_height"], options["difficulty"]) == ("8m_vs_9m", True, "7")
    assert not {"engine", "seed", "timeout", "sight_range", "replay_dir", "recycle_gib"} & options.keys()
    assert StarCraft2.settle(config(engine="starcraft2", map_name="8m_vs_9m", game_version="4.6.2"))


@pytest.mark.parametrize(
    ("env_args", "said"),
    [
        ({"map_name": "3m"}, r"map 3m.SC2Map is not found in .*SMAC_Maps"),
        (
            {"game_version": "5.0.9"},
            r"II 5.0.9 \(Base87702\) is not installed at .*has 4.6.2 \(Base69232\), 4.10.0",
        ),
        ({"game_version": "4.99"}, r"game_version 4.99 is not known to pysc2, whose latest is 5.0.9"),
        ({"replay_dir": "here"}, r"the game through upstream's code cannot honour replay_dir: a run saves no"),
        ({"seed": 3}, r"cannot honour seed: the run's own seed"),
        ({"max_starting": 0}, r"max_starting must be positive"),
    ],
)
def test_what_the_found_game_cannot_do_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_args: dict[str, Any], said: str
) -> None:
    installation(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=said):
        StarCraft2.settle(config(**{"engine": "starcraft2", "map_name": "8m_vs_9m", **env_args}))


def test_another_project_called_smac_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation(tmp_path, monkeypatch)
    (tmp_path / "site" / "smac" / "env" / "starcraft2").rmdir()
    with pytest.raises(ValueError, match=r"another project \(PyPI's smac tunes hyper-parameters\)"):
        StarCraft2.settle(config(engine="starcraft2", map_name="8m_vs_9m"))
    assert StarCraft2.settle(config(engine="auto", map_name="8m_vs_9m")).engine == "skirmish"


def test_auto_falls_back_with_a_box(capsys: pytest.CaptureFixture[str]) -> None:
    settled = StarCraft2.settle(config(engine="auto"))
    assert settled.engine == "skirmish"
    box = capsys.readouterr().err.splitlines()
    assert any("NOT STARCRAFT II" in line for line in box)
    assert len(box) >= 4
    assert len({len(line) for line in box}) == 1
    StarCraft2.settle(settled)
    assert capsys.readouterr().err == "", "a settled configuration says it no more"


def test_found_by_name() -> None:
    assert ENVS["sc2"] is StarCraft2
    assert StarCraft2.native


@pytest.mark.parametrize("devices", [[], ["/dev/nvidia0"]], ids=["no GPU", "GPU"])
def test_only_the_warning_of_a_missing_driver_is_hidden(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, devices: list[str]
) -> None:
    warning = "Warp CUDA warning: Could not find or load the NVIDIA CUDA driver. GPU execution will not be available.\n"
    monkeypatch.setattr("glob.glob", lambda _: devices)
    monkeypatch.setattr("os.path.exists", lambda _: False)
    with without_missing_driver():
        os.write(2, (warning + "another warning\n").encode())
    os.write(2, b"later\n")
    assert capfd.readouterr().err == (warning if devices else "") + "another warning\nlater\n"
