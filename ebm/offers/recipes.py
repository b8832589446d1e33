"""The bundled recipes: the files of `ebm/recipes`."""

from __future__ import annotations

from pathlib import Path

from ebm.registry import hookimpl


@hookimpl
def ebm_recipes() -> dict[str, Path]:
    """Offers the bundled recipes."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))}
