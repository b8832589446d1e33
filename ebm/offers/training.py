"""What a training is told by name: torch's optimisers and schedulers, callbacks and loggers."""

from __future__ import annotations

from ebm.registry import Offer, hookimpl

FITS = ("params", "lr", "weight_decay", "betas")  # what `fit` says itself to optimisers, the same for all
HANDED = ("optimizer", "last_epoch", "scale_fn")  # what schedulers are handed, or is no data
OPTIMIZERS = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adafactor", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")
SCHEDULERS = {
    "constant": "ConstantLR",
    "cosine-annealing": "CosineAnnealingLR",
    "cosine-warm-restarts": "CosineAnnealingWarmRestarts",
    "cyclic": "CyclicLR",
    "exponential": "ExponentialLR",
    "linear": "LinearLR",
    "multi-step": "MultiStepLR",
    "one-cycle": "OneCycleLR",
    "polynomial": "PolynomialLR",
    "step": "StepLR",
}


@hookimpl
def ebm_optimizers() -> dict[str, Offer]:
    """Offers torch's optimisers that take one gradient a step, for dense gradients."""
    likes = {name.lower(): f"torch.optim:{name}" for name in OPTIMIZERS} | {"muon": "ebm.training.optimizers:muon"}
    return {name: Offer(f"ebm.training.optimizers:MADE.{name}", like, FITS) for name, like in likes.items()}


@hookimpl
def ebm_schedulers() -> dict[str, Offer]:
    """Offers torch's schedulers; what torch calls an epoch is an optimiser's step here."""
    made = "ebm.training.schedulers:MADE"
    return {name: Offer(f"{made}.{name}", f"torch.optim.lr_scheduler:{kind}", HANDED) for name, kind in SCHEDULERS.items()}


@hookimpl
def ebm_callbacks() -> dict[str, str]:
    """Offers the callbacks of the toolkit."""
    return {"early-stopping": "ebm.training.callbacks:EarlyStopping"}


@hookimpl
def ebm_loggers() -> dict[str, str]:
    """Offers the loggers of the toolkit."""
    return {"wandb": "ebm.training.loggers:wandb", "trackio": "ebm.training.loggers:trackio"}
