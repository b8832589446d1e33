"""The bundled grids, studies that run recipes: the files of `ebm/grids`."""

from __future__ import annotations

from pathlib import Path

from ebm.registry import hookimpl


@hookimpl
def ebm_grids() -> dict[str, Path]:
    """Offers the bundled grids."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "grids").glob("*.toml"))}
