"""What of StarCraft II is installed on this machine, found without importing any of its packages."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

DEFAULT_VERSION = "4.10"
"""What most published results since 2020 were obtained on."""
BINARY = "SC2_x64"
MAPS = Path("Maps") / "SMAC_Maps"


def root() -> Path:
    """Where the game is, or would be: ``SC2PATH``, else the default of pysc2."""
    return Path(os.environ.get("SC2PATH") or Path.home() / "StarCraftII").expanduser()


def builds() -> dict[int, Path]:
    """The installed binaries by their build's number."""
    binaries = root().glob(f"Versions/Base*/{BINARY}")
    found = {binary.parent.name.removeprefix("Base"): binary for binary in binaries}
    return {int(number): binary for number, binary in sorted(found.items()) if number.isdigit()}


def known_versions() -> dict[str, int]:
    """Build numbers by version, as the installed pysc2 lists them (empty without it), such as "4.10.0"."""
    found = _folders("pysc2")
    lists = [file for folder in found if (file := folder / "run_configs" / "lib.py").is_file()]
    text = lists[0].read_text() if lists else ""
    return {version: int(build) for version, build in re.findall(r'Version\("(\d+\.\d+\.\d+)", (\d+)', text)}


def full(version: str) -> str:
    """With all three numbers: 4.10 is 4.10.0."""
    return version + ".0" if version.count(".") == 1 else version


def missing(package: str, map_file: str | None = None, version: str | None = None) -> list[str]:
    """What keeps the game from being played here; empty where nothing does.

    Args:
        package: upstream's Python package, smac or smacv2.
        map_file: the map's name; None: any.
        version: of the game; None: ``DEFAULT_VERSION``.
    """
    return _missing_game(version or DEFAULT_VERSION, map_file) + _missing_packages(package)


def _missing_game(version: str, map_file: str | None) -> list[str]:
    if not (root() / "Versions").is_dir():
        return [f"StarCraft II is not found at {root()} (SC2PATH says where it is)"]
    there = builds()
    if not there:
        return [f"{root()} has no executable Versions/Base*/{BINARY}: the installation is incomplete"]
    problems = [f"{binary} may not be executed" for binary in there.values() if not os.access(binary, os.X_OK)]
    known = known_versions()
    if known and full(version) not in known:
        problems.append(f"game_version {version} is not known to pysc2, whose latest is {list(known)[-1]}")
    elif known and known[full(version)] not in there:
        names = [next((v for v, build in known.items() if build == number), "unknown") for number in there]
        found = ", ".join(f"{name} (Base{number})" for name, number in zip(names, there, strict=True))
        problems.append(f"StarCraft II {version} (Base{known[full(version)]}) is not installed at {root()}, which has "
                        f"{found}: install it, or choose with env_args.game_version")  # fmt: skip
    place = root() / MAPS
    if not place.is_dir():
        problems.append(f"SMAC's maps are not found at {place}")
    elif map_file is not None and not (place / f"{map_file}.SC2Map").is_file():
        problems.append(f"the map {map_file}.SC2Map is not found in {place}")
    return problems


def _missing_packages(package: str) -> list[str]:
    problems = []
    folders = _folders(package)
    if not folders:
        problems.append(f"the Python package {package} (from GitHub) is not installed")
    elif not any((folder / "env" / "starcraft2").is_dir() for folder in folders):
        other = " (PyPI's smac tunes hyper-parameters): uninstall it" if package == "smac" else ""
        problems.append(f"the Python package {package} (from GitHub) is not installed; the one at {folders[0]} is "
                        f"another project{other}")  # fmt: skip
    absent = [name for name in ("pysc2", "s2clientprotocol", "websocket") if not _folders(name)]
    if absent:
        problems.append(f"of the client of StarCraft II there is no {' and no '.join(absent)}")
    return problems


def _folders(package: str) -> list[Path]:
    """Where a package's modules are; empty where it is not installed."""
    found = importlib.util.find_spec(package)
    return [Path(place) for place in (found.submodule_search_locations or [])] if found else []
