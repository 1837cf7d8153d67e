"""The unit types of the SMAC maps: Wings-of-Liberty base statistics, in normal seconds (16 game loops each)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOOPS_PER_SECOND = 16
MISSILE = 18.75
"""Cells per second of the game data's default missile."""

LEGS = ("walks", "climbs", "flies")
"""Ways of getting about. Units of different ways never collide; only walkers and climbers mind the ground."""


@dataclass(frozen=True, kw_only=True)
class UnitKind:
    """One unit type. Ranges are from edge to edge, times in seconds, speeds in cells per second."""

    name: str
    hp: float
    shield: float = 0.0
    armour: float = 0.0
    """Taken off every hit that reaches the health (shields have none)."""
    regeneration: float = 0.0
    """Health per second."""
    armoured: bool = False
    """An attribute that some weapons are better against."""
    light: bool = False
    """The same."""
    biological: bool = False
    """Can be healed."""

    damage: float = 0.0
    bonus: float = 0.0
    """Further damage against armoured targets."""
    light_bonus: float = 0.0
    """Further damage against light targets."""
    blows: int = 1
    """Hits per attack."""
    blow_delay: float = 0.0
    """Time from the first to the second hit; 0: both fall at once."""
    period: float = 1.0
    """Time between two attacks."""
    reach: float = 0.0
    """Range of the weapon, or of healing."""
    slop: bool = True
    """An attack that has begun hits a target that has got out of range by a little."""
    wind_up: float = 0.0
    """Time from the beginning of an attack to its first hit (the damage point)."""
    missile: float = 0.0
    """Speed of what is shot; 0: it hits at once."""
    hits_air: bool = False
    """Can attack what flies."""
    burst: float = 0.0
    """Radius of the explosion in which the unit dies; it attacks by dying."""
    beam: float = 0.0
    """Half the length of the line across the direction of fire on which bystanders are hit too."""
    beam_width: float = 0.0
    """Half the width of that line."""
    beam_delay: float = 0.0
    """Time from the hit on the target to the hits on the bystanders."""
    healing: float = 0.0
    """Health per second given to a mate; such a unit has no weapon."""
    energy: float = 0.0
    """At the start."""
    energy_max: float = 0.0
    energy_gain: float = 0.0
    """Energy per second."""

    legs: Literal["walks", "climbs", "flies"] = "walks"
    speed: float = 0.0
    """0: a structure, which nobody pushes."""
    acceleration: float = 0.0
    """Cells per second, per second; 0: at once."""
    radius: float = 0.0
    """Size for ranges."""
    separation: float = 0.0
    """Size for keeping apart."""

    cooldown_scale: float
    """What SMAC divides the weapon's cooldown (in game loops) by, or the energy; Stalker and Colossus are swapped."""
    sight: float = 9.0
    """How far SMACv2 lets it see; SMAC's agents all see 9 cells far."""
    shoot: float = 6.0
    """From how far SMACv2 offers its attacks (the distance between centres), unless its ``min_attack_range`` is longer;
    SMAC's agents all have 6."""


_KINDS = (
    UnitKind(
        name="marine", hp=45.0, light=True, biological=True, damage=6.0, period=0.8608, reach=5.0, wind_up=0.05,
        hits_air=True, speed=2.25, radius=0.375, separation=0.375, cooldown_scale=15.0, shoot=5.0,
    ),
    UnitKind(
        name="marauder", hp=125.0, armour=1.0, armoured=True, biological=True, damage=10.0, bonus=10.0, period=1.5,
        reach=6.0, missile=MISSILE, speed=2.25, radius=0.5625, separation=0.5, cooldown_scale=25.0, sight=10.0,
    ),
    UnitKind(
        name="medivac", hp=150.0, armour=1.0, armoured=True, reach=4.0, healing=9.0, energy=50.0, energy_max=200.0,
        energy_gain=0.5625, legs="flies", speed=2.75, acceleration=2.3125, radius=0.75, separation=0.75,
        cooldown_scale=200.0, sight=11.0, shoot=4.0,
    ),
    UnitKind(
        name="stalker", hp=80.0, shield=80.0, armour=1.0, armoured=True, damage=10.0, bonus=4.0, period=1.44, reach=6.0,
        wind_up=0.167, missile=MISSILE, hits_air=True, speed=2.9531, radius=0.625, separation=0.625,
        cooldown_scale=35.0, sight=10.0,
    ),
    UnitKind(
        name="zealot", hp=100.0, shield=50.0, armour=1.0, light=True, biological=True, damage=8.0, blows=2,
        blow_delay=0.28, period=1.2, reach=0.1, speed=2.25, radius=0.5, separation=0.375, cooldown_scale=22.0,
        shoot=0.1,
    ),
    UnitKind(
        name="colossus", hp=200.0, shield=150.0, armour=1.0, armoured=True, damage=20.0, blows=2, period=2.2, reach=6.0,
        slop=False, wind_up=0.083, beam=1.25, beam_width=0.15, beam_delay=0.25, legs="climbs", speed=2.25, radius=1.0,
        separation=0.75, cooldown_scale=24.0, sight=10.0, shoot=7.0,
    ),
    UnitKind(
        name="zergling", hp=35.0, regeneration=0.2734, light=True, biological=True, damage=5.0, period=0.696, reach=0.1,
        wind_up=0.167, speed=2.9531, radius=0.375, separation=0.375, cooldown_scale=11.0, sight=8.0, shoot=0.1,
    ),
    UnitKind(
        name="hydralisk", hp=80.0, regeneration=0.2734, light=True, biological=True, damage=12.0, period=0.83,
        reach=5.0, wind_up=0.208, missile=MISSILE, hits_air=True, speed=2.25, radius=0.625, separation=0.5,
        cooldown_scale=10.0, shoot=5.0,
    ),
    UnitKind(
        name="baneling", hp=30.0, regeneration=0.2734, biological=True, damage=20.0, light_bonus=15.0, reach=0.25,
        burst=2.2, speed=2.5, radius=0.375, separation=0.375, cooldown_scale=1.0, sight=8.0, shoot=0.25,
    ),
    UnitKind(
        name="spine_crawler", hp=300.0, regeneration=0.2734, armour=2.0, armoured=True, biological=True, damage=25.0,
        bonus=5.0, period=1.6, reach=7.0, slop=False, wind_up=0.333, radius=0.875, separation=0.875,
        cooldown_scale=15.0, sight=11.0,
    ),
)  # fmt: skip

UNITS: dict[str, UnitKind] = {kind.name: kind for kind in _KINDS}
