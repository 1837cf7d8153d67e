"""Checks of StarCraft II: the game, its maps, the packages that talk to it, what earlier runs have left."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tools.findings import Context, Finding, error, ok, warning
from tools.probes import ProbeError

BUILDS = {"75689": "4.10", "74741": "4.9.2", "69232": "4.6.2"}
"""Directory names of the versions that SMAC's users have."""
VERSION = "75689"
INSTALL, PACKAGES = "./install_sc2.sh", "./run.sh install sc2"


def binaries(sc2: Path) -> dict[str, Path]:
    """The installed versions' executables by build number."""
    found = {re.sub(r"\D", "", folder.name): folder / "SC2_x64" for folder in (sc2 / "Versions").glob("Base*")}
    return {build: path for build, path in sorted(found.items()) if path.exists()}


def starcraft2(context: Context) -> Finding:
    """The game: its version, the right to execute it, the libraries that it needs."""
    found = binaries(context.sc2)
    if not found:
        return warning(f"not at {context.sc2}: battles are played on skirmish", f"{INSTALL}, or set SC2PATH")
    names = ", ".join(BUILDS.get(build, f"build {build}") for build in found)
    if VERSION not in found:
        return warning(f"{names} at {context.sc2}, results are compared on 4.10", INSTALL)
    binary = found[VERSION]
    if not os.access(binary, os.X_OK):
        return error(f"{binary} may not be executed", _permission(binary))
    lacking = _libraries(binary)
    if lacking:
        return error(f"the system lacks {', '.join(lacking)}", "install the packages that have these libraries")
    return ok(f"{names} at {context.sc2}")


def _permission(binary: Path) -> str:
    if os.statvfs(binary).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec: install the game elsewhere and set SC2PATH"
    return f"chmod +x {binary}"


def _libraries(binary: Path) -> list[str]:
    """Shared libraries that the dynamic linker does not find; none where it cannot be asked."""
    with binary.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return []  # a script that starts the game
    try:
        done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"(\S+) => not found", done.stdout)


def maps(context: Context) -> Finding:
    """The maps of all registered names."""
    folder = context.sc2 / "Maps" / "SMAC_Maps"
    if not binaries(context.sc2):
        return ok("not looked for: there is no StarCraft II")
    wanted = context.probes.result("maps")
    lacking = {
        env: [name for name in names if not (folder / f"{name}.SC2Map").is_file()] for env, names in wanted.items()
    }
    said = "; ".join(f"{env}: {', '.join(names)}" for env, names in lacking.items() if names)
    if said:
        return warning(f"not in {folder}: {said}", INSTALL)
    return ok(f"all {sum(map(len, wanted.values()))} in {folder}")


def protobuf(context: Context) -> Finding:
    """Protobuf's backend, which decides how fast the game's observations are read."""
    try:
        facts = context.probes.result("protobuf")
    except ProbeError as failure:
        return error(f"cannot be loaded: {failure}", "start ./run.sh, which installs what requirements.txt pins")
    said = f"{facts['version']}, backend {facts['backend']}"
    if facts["backend"] == "python":
        forced = os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION") == "python"
        remedy = "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" if forced else PACKAGES
        return warning(f"{said}: reads the game's observations more than 100 times slower than upb", remedy)
    if len(facts["messages"]) > 1:
        return warning(
            f"{said}; {' and '.join(facts['messages'])} have overwritten each other's files",
            f"pip uninstall both in this environment, then {PACKAGES}",
        )
    return ok(said)


def pysc2(context: Context) -> Finding:
    """The client that starts the game and talks to it."""
    try:
        version = context.probes.result("pysc2")["version"]
    except ProbeError as failure:
        if "Descriptors cannot" in str(failure) or "downgrade" in str(failure):
            return error(
                "its messages are too old for this protobuf", f"pip uninstall s2clientprotocol, then {PACKAGES}"
            )
        return error(f"is installed, but cannot be loaded: {failure}", PACKAGES)
    return ok(str(version)) if version else warning("not installed", PACKAGES)


def smac(context: Context) -> Finding:
    """SMAC's own package."""
    return _simulator(context, "smac")


def smacv2(context: Context) -> Finding:
    """SMACv2's own package."""
    return _simulator(context, "smacv2")


def _simulator(context: Context, package: str) -> Finding:
    try:
        facts = context.probes.result(package)
    except ProbeError as failure:
        return error(f"is installed, but cannot be loaded: {failure}", PACKAGES)
    if facts["version"] is None:
        return warning("not installed", PACKAGES)
    if not facts["right"]:
        return error(
            f"{facts['version']} is another project of that name (PyPI's smac tunes hyper-parameters)",
            f"pip uninstall {package} in this environment, then {PACKAGES}",
        )
    return ok(str(facts["version"]))


def orphans(_: Context) -> Finding:
    """Games whose trainer is gone."""
    import psutil

    left = []
    for process in psutil.process_iter(["pid", "ppid", "name"]):
        if process.info["name"] == "SC2_x64" and process.info["ppid"] == 1:
            left.append(str(process.info["pid"]))
    if left:
        return warning(f"{len(left)} StarCraft II without a trainer", f"if they are yours: kill {' '.join(left)}")
    return ok("none")
