"""What people do with a run on the command line: a verb a file, each imported when it is called."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_commands() -> dict[str, str]:
    """Offers the commands of this package."""
    return {
        "eval": "ebm.commands.evaluate:evaluate",
        "probe": "ebm.commands.probe:probe",
        "sample": "ebm.commands.sample:sample",
        "generate": "ebm.commands.generate:generate",
        "denoise": "ebm.commands.denoise:denoise",
        "restore": "ebm.commands.restore:restore",
        "rollout": "ebm.commands.rollout:rollout",
        "lm-eval": "ebm.interop.lm_eval:lm_eval",
        "solve": "ebm.commands.solve:solve",
        "export": "ebm.commands.export:export",
        "push": "ebm.commands.push:push",
    }
