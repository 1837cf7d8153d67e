"""The unit types of the SMAC maps: Wings-of-Liberty base statistics, in normal seconds (16 game loops each)."""

from __future__ import annotations

from dataclasses import dataclass

LOOPS_PER_SECOND = 16


@dataclass(frozen=True, kw_only=True)
class UnitKind:
    """One unit type. Ranges are from edge to edge, times in seconds, speeds in cells per second."""

    name: str
    hp: float
    shield: float = 0.0
    armour: float = 0.0
    """Taken off every hit that reaches the health (shields have none)."""
    armoured: bool = False
    """The attribute that some weapons are better against."""
    damage: float = 0.0
    bonus: float = 0.0
    """Further damage against armoured targets."""
    blows: int = 1
    """Hits per attack."""
    blow_delay: float = 0.0
    """Time from the first to the second hit."""
    period: float = 1.0
    """Time between two attacks."""
    reach: float = 0.0
    """Weapon range."""
    wind_up: float = 0.0
    """Time from the beginning of an attack to its first hit (the damage point)."""
    speed: float = 0.0
    radius: float = 0.0
    """Size for ranges."""
    separation: float = 0.0
    """Size for keeping apart."""
    regeneration: float = 0.0
    """Health per second."""
    cooldown_scale: float
    """What SMAC divides the weapon's cooldown (in game loops) by; Stalker and Colossus are swapped there."""
    unsupported: str = ""
    """Why the simulator cannot play this type yet; empty where it can."""


_KINDS = (
    UnitKind(
        name="marine", hp=45.0, damage=6.0, period=0.8608, reach=5.0, wind_up=0.05, speed=2.25,
        radius=0.375, separation=0.375, cooldown_scale=15.0,
    ),
    UnitKind(
        name="marauder", hp=125.0, armour=1.0, armoured=True, damage=10.0, bonus=10.0, period=1.5, reach=6.0,
        speed=2.25, radius=0.5625, separation=0.5, cooldown_scale=25.0, unsupported="it comes with the Medivac maps",
    ),
    UnitKind(
        name="medivac", hp=150.0, armour=1.0, armoured=True, reach=4.0, speed=2.75,
        radius=0.75, separation=0.75, cooldown_scale=200.0, unsupported="healing and flight are not built yet",
    ),
    UnitKind(
        name="stalker", hp=80.0, shield=80.0, armour=1.0, armoured=True, damage=10.0, bonus=4.0, period=1.44, reach=6.0,
        wind_up=0.167, speed=2.9531, radius=0.625, separation=0.625, cooldown_scale=35.0,
    ),
    UnitKind(
        name="zealot", hp=100.0, shield=50.0, armour=1.0, damage=8.0, blows=2, blow_delay=0.28, period=1.2, reach=0.1,
        speed=2.25, radius=0.5, separation=0.375, cooldown_scale=22.0,
    ),
    UnitKind(
        name="colossus", hp=200.0, shield=150.0, armour=1.0, armoured=True, damage=20.0, blows=2, period=2.2, reach=6.0,
        wind_up=0.083, speed=2.25, radius=1.0, separation=0.75, cooldown_scale=24.0,
        unsupported="line splash and walking over cliffs are not built yet",
    ),
    UnitKind(
        name="zergling", hp=35.0, damage=5.0, period=0.696, reach=0.1, wind_up=0.167, speed=2.9531,
        radius=0.375, separation=0.375, regeneration=0.2734, cooldown_scale=11.0,
    ),
    UnitKind(
        name="hydralisk", hp=80.0, damage=12.0, period=0.83, reach=5.0, wind_up=0.208, speed=2.25,
        radius=0.625, separation=0.5, regeneration=0.2734, cooldown_scale=10.0,
        unsupported="Hydralisks are not built yet",
    ),
    UnitKind(
        name="baneling", hp=30.0, damage=20.0, bonus=0.0, reach=0.25, speed=2.5,
        radius=0.375, separation=0.375, regeneration=0.2734, cooldown_scale=1.0,
        unsupported="explosions are not built yet",
    ),
    UnitKind(
        name="spine_crawler", hp=300.0, armour=2.0, armoured=True, damage=25.0, bonus=5.0, period=1.6, reach=7.0,
        wind_up=0.333, radius=0.875, separation=0.875, regeneration=0.2734, cooldown_scale=15.0,
        unsupported="immobile structures are not built yet",
    ),
)  # fmt: skip

UNITS: dict[str, UnitKind] = {kind.name: kind for kind in _KINDS}
