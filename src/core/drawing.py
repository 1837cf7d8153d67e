"""A picture of a stage and a frame as an array of pixels, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from core.picture import CLIFF, FLOOR, Entity, Frame, Point, Stage, colour, emblem

FINE = 3
"""Everything is drawn so many times larger and then averaged, which smooths edges."""
VOID, CELLS, EDGE = "#d3d9e0", {FLOOR: "#f6f8fa", CLIFF: "#e4dccd"}, "#8c959f"
BARS = {"health": "#2da44e", "shield": "#79c0ff", "energy": "#d2a8ff"}
"""Colours of the bars, from the unit upwards."""
TROUGH = "#24292f"
SIGHT_ALPHA, REACH_ALPHA, TARGET_ALPHA, HOLLOW_ALPHA = 26, 200, 80, 60
"""How opaque sight, ranges, target lines and what is nobody's are, of 255."""
EMBLEM = 0.86
"""Size of an emblem, as a share of its entity."""
MARK = (0.0, 1.1, 1.9)
"""Size of a mark's letters, times their number, as a share of its entity: of none, one, and more letters."""


def draw(
    stage: Stage, frame: Frame, *, width: int = 800, ranges: Collection[int] = ()
) -> UInt8[np.ndarray, "height width 3"]:
    """The stage at one moment: y up, discs of true size, marks, emblems of kinds, bars of what is left.

    Args:
        stage: what is shown.
        frame: where everything is.
        width: of the picture, in pixels; its height follows from the stage's.
        ranges: entities (places in the stage) whose sight (a disc) and weapon's range (a circle) are shown.
    """
    if width < 1:
        raise ValueError(f"a picture's width must be at least 1 pixel, not {width}")
    canvas = _Canvas(stage, width)
    canvas.ground()
    living = [u for u in range(len(stage.entities)) if frame.alive[u]]
    # What is small stays on top, and of equals what is nobody's lies below.
    living.sort(key=lambda u: (-stage.entities[u].radius, stage.entities[u].team is not None))
    for u in living:
        if u in ranges:
            canvas.ranges(stage.entities[u], frame.position[u])
    for u in living:
        if frame.target[u] >= 0 and frame.alive[frame.target[u]]:
            canvas.aim(stage.entities[u], frame.position[u], frame.position[frame.target[u]])
    for u in living:
        canvas.disc(stage.entities[u], frame.position[u])
    for u in living:
        values = {name: float(getattr(frame, name)[u]) for name in BARS}
        canvas.bars(stage.entities[u], frame.position[u], values)
    return canvas.pixels()


class _Canvas:
    """An image ``FINE`` times as large as what will come of it."""

    def __init__(self, stage: Stage, width: int) -> None:
        self.stage = stage
        self.scale = FINE * width / (stage.high[0] - stage.low[0])
        height = max(1, round(width * (stage.high[1] - stage.low[1]) / (stage.high[0] - stage.low[0])))
        self.image = Image.new("RGB", (FINE * width, FINE * height), CELLS[FLOOR])
        self.pen = ImageDraw.Draw(self.image, "RGBA")  # translucent colours blend with what is there

    def at(self, point: np.ndarray | Point) -> Point:
        """A place of the world in fine pixels."""
        return (float(point[0]) - self.stage.low[0]) * self.scale, (self.stage.high[1] - float(point[1])) * self.scale

    def ground(self) -> None:
        """Floors, cliffs and walls, with an edge where one meets another."""
        cells = self.stage.ground
        if cells is None:
            return
        wide, high = self.image.width / cells.shape[0], self.image.height / cells.shape[1]
        for (x, y), cell in np.ndenumerate(cells):
            if cell != FLOOR:
                box = (x * wide, self.image.height - (y + 1) * high, (x + 1) * wide, self.image.height - y * high)
                self.pen.rectangle(box, CELLS.get(int(cell), VOID))
        for x, y in np.argwhere(cells[1:] != cells[:-1]).tolist():
            top = self.image.height - (y + 1) * high
            self.pen.line(((x + 1) * wide, top, (x + 1) * wide, top + high), EDGE, FINE)
        for x, y in np.argwhere(cells[:, 1:] != cells[:, :-1]).tolist():
            level = self.image.height - (y + 1) * high
            self.pen.line((x * wide, level, (x + 1) * wide, level), EDGE, FINE)

    def ranges(self, entity: Entity, place: np.ndarray) -> None:
        """How far it sees and shoots."""
        if entity.sight > 0:
            box = self._box(place, entity.sight)
            self.pen.ellipse(box, _tint(entity, SIGHT_ALPHA), _tint(entity, REACH_ALPHA), FINE)
        if entity.reach > 0:
            box = self._box(place, entity.radius + entity.reach)
            for start in range(0, 360, 10):
                self.pen.arc(box, start, start + 5, _tint(entity, REACH_ALPHA), FINE)

    def aim(self, entity: Entity, place: np.ndarray, target: np.ndarray) -> None:
        """A line to its target."""
        self.pen.line((*self.at(place), *self.at(target)), _tint(entity, TARGET_ALPHA), FINE)

    def disc(self, entity: Entity, place: np.ndarray) -> None:
        """The entity itself; what is nobody's is a ring."""
        (x, y), radius = self.at(place), entity.radius * self.scale
        edge, ink = _tint(entity, 255, shade=0.5), (255, 255, 255, 255)
        if entity.team is None:
            self.pen.ellipse(self._box(place, entity.radius), _tint(entity, HOLLOW_ALPHA), edge, FINE)
            ink = edge
        else:
            self.pen.ellipse(self._box(place, entity.radius), _tint(entity, 255), edge, FINE)
            corners = emblem(self.stage.kinds.index(entity.kind))
            points = [(x + EMBLEM * radius * dx, y - EMBLEM * radius * dy) for dx, dy in corners]
            if points:
                self.pen.polygon(points, _tint(entity, 255, shade=0.68))
        size = round(MARK[min(len(entity.mark), 2)] / max(len(entity.mark), 1) * radius)
        if size >= 5 * FINE:  # smaller ones cannot be read
            self.pen.text((x, y), entity.mark, ink, _font(size), anchor="mm")

    def bars(self, entity: Entity, place: np.ndarray, values: dict[str, float]) -> None:
        """What is left of what it has, over its head."""
        thick = max(3 * FINE, round(0.1 * self.scale))
        x, y = self.at(place)
        half = max(0.9 * entity.radius * self.scale, 6 * FINE)
        bottom = y - entity.radius * self.scale
        for name, value in values.items():
            most = getattr(entity, name)
            if most > 0:
                share = min(max(value / most, 0.0), 1.0)
                self.pen.rectangle((x - half, bottom - thick, x + half, bottom), TROUGH)
                inner = (x - half + FINE / 2, bottom - thick + FINE / 2, 2 * half - FINE, thick - FINE)
                if share > 0:
                    left, top, long, high = inner
                    self.pen.rectangle((left, top, left + share * long, top + high), BARS[name])
                bottom -= thick

    def pixels(self) -> np.ndarray:
        """The picture."""
        return np.asarray(self.image.reduce(FINE))

    def _box(self, place: np.ndarray, radius: float) -> tuple[float, float, float, float]:
        (x, y), r = self.at(place), radius * self.scale
        return x - r, y - r, x + r, y + r


def _tint(entity: Entity, alpha: int, shade: float = 1.0) -> tuple[int, int, int, int]:
    """Its team's colour on a light ground, darkened to ``shade``."""
    red, green, blue = ImageColor.getrgb(colour(entity.team).light)[:3]
    return round(shade * red), round(shade * green), round(shade * blue), alpha


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
