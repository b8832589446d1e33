"""Studies, by name."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_studies() -> dict[str, str]:
    """Offers the studies of the toolkit."""
    return {
        "thinking": "ebm.studies.thinking:thinking",
        "probe": "ebm.studies.probe:probe",
        "rerank": "ebm.studies.rerank:rerank",
        "uncertainty": "ebm.studies.uncertainty:uncertainty",
    }
