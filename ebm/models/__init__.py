"""Ready models: each folder here is one, as `ebm export` wrote it, and its name is the model's."""

from __future__ import annotations

from pathlib import Path

from ebm.registry import hookimpl


@hookimpl
def ebm_models() -> dict[str, Path]:
    """Offers the bundled models."""
    return {path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob("*/model.json"))}
