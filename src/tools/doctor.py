"""``doctor``: checks the whole installation and says what to do about what is missing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from core import cli
from core.config import ConfigError, masked
from core.registry import did_you_mean
from tools import game, machine
from tools.findings import Context, Finding, error
from tools.probes import Probes

CHECKS: dict[str, Callable[[Context], Finding]] = {
    "python": machine.python,
    "packages": machine.packages,
    "torch": machine.torch,
    "cuda": machine.cuda,
    "warp": machine.warp,
    "protobuf": game.protobuf,
    "pysc2": game.pysc2,
    "smac": game.smac,
    "smacv2": game.smacv2,
    "starcraft2": game.starcraft2,
    "maps": game.maps,
    "orphans": game.orphans,
    "mongo": machine.mongo,
    "disk": machine.disk,
    "scratch": machine.scratch,
    "shared memory": machine.shared_memory,
    "descriptors": machine.descriptors,
    "cores": machine.cores,
    "memory": machine.memory,
    "git": machine.git,
}
"""Every check, in the order of the table. A further one is one function and one line here."""
STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def main(argv: list[str]) -> int:
    """Checks and prints; 1 where something is an error, else 0.

    Raises:
        ConfigError: ``--need`` names no check.
    """
    options = _parser().parse_args(argv)
    unknown = [name for name in options.need if name not in CHECKS]
    if unknown:
        raise ConfigError([f"--need: there is no check '{name}'.{did_you_mean(name, CHECKS)}" for name in unknown])
    probes = Probes()
    try:
        findings = examine(_context(options, probes), options.need)
    finally:
        probes.close()
    failed = any(finding.status == "error" for finding in findings.values())
    if options.json:
        checks = [{"check": name, **asdict(finding)} for name, finding in findings.items()]
        print(json.dumps({"status": "error" if failed else "ok", "checks": checks}, indent=2))
    else:
        _print(findings)
    return int(failed)


def examine(context: Context, needed: list[str]) -> dict[str, Finding]:
    """Every check's finding. A check that breaks is an error and no reason to leave out the others."""
    findings = {}
    for name, check in CHECKS.items():
        try:
            finding = check(context)
        except Exception as failure:  # noqa: BLE001 - whatever is broken here is what the user asks about
            finding = error(f"could not be checked: {type(failure).__name__}: {failure}", "mend what it says")
        if name in needed and finding.status == "warning":
            finding = replace(finding, status="error")
        findings[name] = replace(finding, detail=masked(finding.detail), remedy=masked(finding.remedy))
    return findings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} doctor",
        description="Checks the installation: Python, torch, GPU, StarCraft II, MongoDB, disks, limits.",
        epilog="Exit status: 0 no errors, 1 errors, 2 wrong input.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--need", action="append", default=[], metavar="CHECK", help="take its warning for an error; "
                        "repeatable, for instance --need=starcraft2 --need=cuda")  # fmt: skip
    parser.add_argument("-m", "--mongo", metavar="URL", help=f"the database (default: {cli.MONGO_VARIABLE})")
    parser.add_argument("--mongo-db", default="cofactor", help="its name there (default: cofactor)")
    parser.add_argument("--results-dir", default="results", help="where runs are written (default: results)")
    return parser


def _context(options: argparse.Namespace, probes: Probes) -> Context:
    return Context(
        probes=probes,
        sc2=Path(os.environ.get("SC2PATH") or Path.home() / "StarCraftII").expanduser(),
        results=Path(options.results_dir).absolute(),
        mongo=options.mongo or os.environ.get(cli.MONGO_VARIABLE),
        mongo_db=options.mongo_db,
    )


def _print(findings: dict[str, Finding]) -> None:
    """A table where rich can be loaded, plain lines where not even that works."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for name, finding in findings.items():
            print(
                f"{finding.status:8} {name}: {finding.detail}"
                + (f"\n         -> {finding.remedy}" if finding.remedy else "")
            )
        return
    table = Table("check", "", "what was found", box=None, pad_edge=False, show_header=False)
    for name, finding in findings.items():
        said = Text(finding.detail)
        if finding.remedy:
            said.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(name, Text(finding.status, style=STYLES[finding.status]), said)
    Console().print(table)
    counts = {status: sum(finding.status == status for finding in findings.values()) for status in STYLES}
    Console().print(", ".join(f"{count} {status}" for status, count in counts.items()))
