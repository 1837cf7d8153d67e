"""The SC2 API's requests and answers around a battle."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from s2clientprotocol import common_pb2 as common
from s2clientprotocol import data_pb2 as data
from s2clientprotocol import debug_pb2 as debug
from s2clientprotocol import error_pb2 as error
from s2clientprotocol import raw_pb2 as raw
from s2clientprotocol import sc2api_pb2 as api

from envs.skirmish.maps import MAPS, SIZE, BattleMap, walkable
from fake_sc2.catalogue import (
    ATTACK,
    FIRST_OWN,
    FLAT,
    HEAL,
    MOVE,
    STOP,
    Created,
    created,
    own_types,
    teams,
    type_numbers,
)

if TYPE_CHECKING:
    from fake_sc2.arena import Arena

PLAYER, COMPUTER = 1, 2
GROUND, CLIFF = 127, 0
"""Heights, of 255; the true ones are not known to us."""
_TAG = 1 << 18
"""A tag is a unit's number times this, plus how often the number was given before: so the game makes its tags."""
_ANYTIME = ("ping", "quit", "available_maps")
_LEGAL = {
    api.launched: ("create_game", "join_game"),
    api.init_game: ("join_game", "create_game"),
    api.in_game: (
        "game_info", "observation", "action", "step", "data", "debug", "restart_game", "save_replay", "leave_game",
        "create_game",
    ),
    api.ended: ("observation", "restart_game", "save_replay", "leave_game", "create_game", "game_info", "data"),
}  # fmt: skip
"""What may be asked for in which status."""
_MAPS = MAPS | {FLAT.name: FLAT}


class Refused(Exception):
    """A request that the game does not carry out; the answer has this as its error."""


class Game:
    """Answers requests, one after the other."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the installation."""
        self.folder = folder
        self.status: int = api.launched
        self.created: api.RequestCreateGame | None = None
        self.map: BattleMap = FLAT
        self.arena: Arena | None = None
        """None as long as there are no units."""
        self.types: list[int] = []
        self.coming: list[Created] = []
        """Units that appear with the next step."""
        self.seed = self.battles = self.loop = 0
        self.ally_race: int = common.Terran

    def answer(self, request: api.Request) -> api.Response:
        """The answer to any request."""
        name = request.WhichOneof("request")
        response = api.Response(id=request.id)
        legal = (*_ANYTIME, *_LEGAL.get(self.status, ()))
        handler: Callable[[Any, Any], None] | None = getattr(self, f"_{name}", None)
        if handler is None:
            response.error.append(f"the stand-in for StarCraft II does not answer '{name}'")
        elif name not in legal:
            response.error.append(f"'{name}' is not possible in status {api.Status.Name(self.status)}")
        else:
            part = getattr(response, name)
            part.SetInParent()
            try:
                handler(getattr(request, name), part)
            except Refused as refusal:
                response.ClearField(name)
                response.error.append(str(refusal))
        response.status = self.status
        return response

    # ------------------------------------------------------------ before and after the game

    def _ping(self, _: api.RequestPing, answer: api.ResponsePing) -> None:
        answer.game_version = "4.10.0.75689"
        answer.data_version = "B89B5D6FA7CBF6452E721311BFBC6CB2"
        answer.data_build = answer.base_build = 75689

    def _quit(self, _: api.RequestQuit, answer: api.ResponseQuit) -> None:
        self.status = api.quit

    def _available_maps(self, _: api.RequestAvailableMaps, answer: api.ResponseAvailableMaps) -> None:
        folder = self.folder / "Maps"
        answer.local_map_paths.extend(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.SC2Map")))

    def _create_game(self, request: api.RequestCreateGame, answer: api.ResponseCreateGame) -> None:
        path = request.local_map.map_path
        if not path:
            answer.error = api.ResponseCreateGame.MissingMap
        elif not request.local_map.map_data and not (self.folder / "Maps" / path).is_file():
            answer.error = api.ResponseCreateGame.InvalidMapPath
        elif Path(path).stem not in _MAPS:
            answer.error, answer.error_details = api.ResponseCreateGame.InvalidMapData, f"no SMAC map: {path}"
        elif [setup.type for setup in request.player_setup] != [api.Participant, api.Computer]:
            answer.error = api.ResponseCreateGame.InvalidPlayerSetup
        else:
            self.created, self.arena, self.status = request, None, api.init_game

    def _join_game(self, request: api.RequestJoinGame, answer: api.ResponseJoinGame) -> None:
        if self.created is None:
            raise Refused("there is no game to join")
        if not request.options.raw:
            answer.error, answer.error_details = api.ResponseJoinGame.MissingOptions, "only raw observations are built"
            return
        self.ally_race = request.race
        self._begin()
        answer.player_id = PLAYER

    def _begin(self) -> None:
        """Starts the created game."""
        assert self.created is not None
        self.map = _MAPS[Path(self.created.local_map.map_path).stem]
        self.seed = self.created.random_seed
        if not self.created.HasField("random_seed"):
            self.seed = int.from_bytes(os.urandom(4), "little")
        self.arena, self.coming, self.loop, self.status = None, [], 0, api.in_game
        if self.map is not FLAT:
            self._populate(self.map, self.seed)

    def _populate(self, battle_map: BattleMap, seed: int) -> Arena:
        """The units of a map."""
        from fake_sc2.arena import Arena  # takes a while, which the client shall not wait for before it needs to

        self.arena = Arena(battle_map, seed)
        self.types = type_numbers(battle_map)
        self.battles += 1
        return self.arena

    def _restart_game(self, _: api.RequestRestartGame, answer: api.ResponseRestartGame) -> None:
        self._begin()

    def _leave_game(self, _: api.RequestLeaveGame, answer: api.ResponseLeaveGame) -> None:
        self.created, self.arena, self.status = None, None, api.launched

    def _save_replay(self, _: api.RequestSaveReplay, answer: api.ResponseSaveReplay) -> None:
        answer.data = b"MPQ\x1b place-holder for a replay"

    # ------------------------------------------------------------ what does not change

    def _game_info(self, _: api.RequestGameInfo, answer: api.ResponseGameInfo) -> None:
        assert self.created is not None
        answer.map_name = Path(self.created.local_map.map_path).stem
        answer.local_map_path = self.created.local_map.map_path
        answer.options.raw = True
        computer = self.created.player_setup[1]
        answer.player_info.add(
            player_id=PLAYER, type=api.Participant, race_requested=self.ally_race, race_actual=self.ally_race
        )
        answer.player_info.add(
            player_id=COMPUTER, type=api.Computer, race_requested=computer.race, difficulty=computer.difficulty
        )
        grid = walkable(self.map.terrain).T  # rows of one y each
        start = answer.start_raw
        start.map_size.x = start.map_size.y = SIZE
        start.playable_area.p1.x = start.playable_area.p1.y = SIZE
        start.playable_area.p0.x = start.playable_area.p0.y = 0
        _image(start.pathing_grid, 1, np.packbits(grid, axis=1))
        _image(start.placement_grid, 1, np.packbits(grid, axis=1))
        _image(start.terrain_height, 8, np.where(grid, GROUND, CLIFF).astype(np.uint8))

    def _data(self, request: api.RequestData, answer: api.ResponseData) -> None:
        if not request.unit_type_id:
            return
        own = own_types(self.map)
        answer.units.extend(data.UnitTypeData(unit_id=number) for number in range(FIRST_OWN))
        answer.units.extend(
            data.UnitTypeData(unit_id=FIRST_OWN + place, name=f"{name.title()}_RL", available=True)
            for place, name in enumerate(own)
        )

    # ------------------------------------------------------------ the course of the game

    def _step(self, request: api.RequestStep, answer: api.ResponseStep) -> None:
        count = request.count or 1
        if self.coming:
            self._appear()
        elif self.arena is not None and self.arena.alive.any():
            self.arena.play(count)
        elif self.arena is not None and self.map is not FLAT:  # SMAC's maps bring everybody back where nobody is left
            self.arena.begin()
            self.battles += 1
        self.loop += count
        answer.simulation_loop = self.loop

    def _appear(self) -> None:
        """The created units replace what is left of others."""
        battle_map, units = teams(self.coming)
        seed = np.random.SeedSequence((self.seed, self.battles)).generate_state(1)[0]
        arena = self._populate(battle_map, int(seed))
        arena.place(np.array([unit.point for unit in units], dtype=np.float32))
        self.coming = []

    def _action(self, request: api.RequestAction, answer: api.ResponseAction) -> None:
        answer.result.extend(self._carry_out(action) for action in request.actions)

    def _carry_out(self, action: api.Action) -> int:
        """Gives one action's order to its units."""
        command = action.action_raw.unit_command
        units = [self._unit(tag) for tag in command.unit_tags]
        if not units or any(unit is None or not self._is_ally(unit) for unit in units):
            return error.Error
        done = [self._order(unit, command) for unit in units if unit is not None]
        return error.Success if all(done) else error.Error

    def _order(self, unit: int, command: raw.ActionRawUnitCommand) -> bool:
        """Orders one unit; whether the game accepts it."""
        assert self.arena is not None
        target = self._unit(command.target_unit_tag) if command.HasField("target_unit_tag") else None
        ability = command.ability_id
        if ability == STOP:
            self.arena.stop(unit)
        elif ability == MOVE and command.HasField("target_world_space_pos"):
            self.arena.move(unit, command.target_world_space_pos.x, command.target_world_space_pos.y)
        elif ability == ATTACK and target is not None:
            return self.arena.attack(unit, target)
        elif ability == HEAL and target is not None:
            return self.arena.heal(unit, target)
        else:
            return False
        return True

    def _debug(self, request: api.RequestDebug, answer: api.ResponseDebug) -> None:
        for command in request.debug:
            kind = command.WhichOneof("command")
            if kind == "kill_unit":
                units = [self._unit(tag) for tag in command.kill_unit.tag]
                if self.arena is not None:
                    self.arena.kill([unit for unit in units if unit is not None])
            elif kind == "create_unit":
                self._create(command.create_unit)
            elif kind == "unit_value":
                self._set_value(command.unit_value)
            elif kind == "end_game":
                self.status = api.ended
            elif kind not in ("draw", "game_state"):
                raise Refused(f"the stand-in for StarCraft II does not know the debug command '{kind}'")

    def _create(self, command: debug.DebugCreateUnit) -> None:
        """Notes units that appear with the next step."""
        if self.map is not FLAT or self._living():
            raise Refused(f"units can be created only on {FLAT.name} and when it is empty")
        unit = created(command.unit_type, command.owner == PLAYER, (command.pos.x, command.pos.y))
        if unit is None:
            raise Refused(f"there is no unit type {command.unit_type}")
        self.coming += [unit] * (command.quantity or 1)

    def _set_value(self, command: debug.DebugSetUnitValue) -> None:
        """Sets a living unit's energy, health or shield."""
        names = {debug.DebugSetUnitValue.Energy: "energy", debug.DebugSetUnitValue.Life: "hp"}
        unit = self._unit(command.unit_tag)
        if unit is not None and self.arena is not None:
            self.arena.live[names.get(command.unit_value, "shield")][0, unit] = command.value

    # ------------------------------------------------------------ observations

    def _tag(self, unit: int) -> int:
        return (unit + 1) * _TAG + self.battles

    def _unit(self, tag: int) -> int | None:
        """The living unit with that tag."""
        place, battle = divmod(tag, _TAG)
        return place - 1 if battle == self.battles and place - 1 in self._living() else None

    def _living(self) -> list[int]:
        """The living units."""
        return [] if self.arena is None else np.flatnonzero(self.arena.alive).tolist()

    def _is_ally(self, unit: int) -> bool:
        return self.types[unit] >= FIRST_OWN

    def _observation(self, _: api.RequestObservation, answer: api.ResponseObservation) -> None:
        seen = answer.observation
        seen.game_loop = self.loop
        seen.player_common.player_id = PLAYER
        living = self._living()
        seen.player_common.army_count = sum(map(self._is_ally, living))
        camera = seen.raw_data.player.camera
        camera.x = camera.y = SIZE / 2
        if self.arena is not None:
            seen.raw_data.units.extend(self._show(self.arena, unit) for unit in living)
        if self.status == api.ended:
            answer.player_result.add(player_id=PLAYER, result=api.Tie)

    def _show(self, arena: Arena, unit: int) -> raw.Unit:
        """One unit as the API shows it."""
        live, kind, ours = arena.live, arena.kinds[unit], self._is_ally(unit)
        x, y = live["pos"][0, unit].tolist()
        shown = raw.Unit(
            display_type=raw.Visible,
            alliance=raw.Self if ours else raw.Enemy,
            tag=self._tag(unit),
            unit_type=self.types[unit],
            owner=PLAYER if ours else COMPUTER,
            pos=common.Point(x=x, y=y, z=GROUND / 8 - 16),
            facing=_facing(live, unit),
            radius=kind.radius,
            build_progress=1.0,
            cloak=raw.NotCloaked,
            is_on_screen=True,
            is_flying=kind.legs == "flies",
            health=float(live["hp"][0, unit]),
            health_max=kind.hp,
            shield=float(live["shield"][0, unit]),
            shield_max=kind.shield,
            energy=float(live["energy"][0, unit]),
            energy_max=kind.energy_max,
            weapon_cooldown=float(live["cooldown"][0, unit]),
        )
        if (target := int(live["target"][0, unit])) >= 0:
            shown.engaged_target_tag = self._tag(target)
        if ours:
            self._show_order(arena, unit, target, shown)
        return shown

    def _show_order(self, arena: Arena, unit: int, target: int, shown: raw.Unit) -> None:
        """What an own unit is about; the game does not tell enemies' orders."""
        if target >= 0:
            heals = arena.kinds[unit].healing > 0.0
            shown.orders.add(ability_id=HEAL if heals else ATTACK, target_unit_tag=self._tag(target))
        elif arena.live["order"][0, unit] == 1:
            x, y = arena.live["goal"][0, unit].tolist()
            shown.orders.add(ability_id=MOVE, target_world_space_pos=common.Point(x=x, y=y))


def _facing(live: dict[str, np.ndarray], unit: int) -> float:
    """Towards the target, or where it is going; skirmish's units have no front."""
    target = int(live["target"][0, unit])
    way = live["pos"][0, target] if target >= 0 else live["goal"][0, unit]
    dx, dy = (way - live["pos"][0, unit]).tolist()
    return math.atan2(dy, dx) % (2 * math.pi)


def _image(image: common.ImageData, bits: int, values: np.ndarray) -> None:
    """Fills in a map-wide grid."""
    image.bits_per_pixel, image.data = bits, values.tobytes()
    image.size.x = image.size.y = SIZE
