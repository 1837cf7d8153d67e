"""Pages of one HTML file each: where they go, and how they get there."""

from __future__ import annotations

from pathlib import Path

from core.config import ConfigError


def place(out: str | Path) -> Path:
    """Where a page is to be written.

    Raises:
        ConfigError: that is no file in a folder that exists.
    """
    path = Path(out)
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError([f"--out: {path} is not a file in a folder that exists"])
    return path


def save(path: Path, page: str) -> None:
    """Writes the page and says where it is.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--out: {path} cannot be written: {error.strerror}"]) from error
    print(f"{path} ({len(page.encode()) / 1e6:.1f} MB): open it in a browser")
