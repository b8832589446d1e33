"""The laws as functions, which an author calls on an own component, and `pytest --ebm DISTRIBUTION`
on all of a package's.

Each check builds the component several times, holds it to every law of its kind, and raises
`LawBroken` at the first that does not hold, with a counterexample and the likely cause. Checks are
functions of their seed; torch's generator is left as it was.
"""

from ebm.testing.encoders import check_encoder
from ebm.testing.energies import check_energy
from ebm.testing.laws import LawBroken
from ebm.testing.objectives import check_objective
from ebm.testing.samplers import check_sampler
from ebm.testing.tasks import check_task

__all__ = ["LawBroken", "check_encoder", "check_energy", "check_objective", "check_sampler", "check_task"]
