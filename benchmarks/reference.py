"""Times training, evaluation, generation and images against the reference EBT itself, and measures both peaks of memory.

    git clone https://github.com/alexiglad/EBT FOLDER && git -C FOLDER checkout 0ad3628
    python benchmarks/reference.py --reference FOLDER
    python benchmarks/reference.py --reference FOLDER --threads 1 2 --only text-1

Both hold the same weights and take the same data and starts; first their losses and gradients are compared. The numbers are
ratios of times within one run: how many times as fast as the reference we are (median of pairs, quartiles), and our memory over
its. Exit code 1: losses differ, or a ratio fell by more than a tenth below the one recorded in reference.json (`--record` writes
that file). One thread is timed by the processor time it used.

What the reference imports and this does not need (Lightning, tokenizers, image encoders) is replaced by empty stand-ins, here
and in this process alone. Nothing of it is copied; its files are run, so look at what you have checked out.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import sys
import time
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from memory import peak_of
from recorded import Recorded
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ebm.decoding.generate import generate
from ebm.interfaces import Batch
from ebm.interop import from_ebt_checkpoint


class Shape(NamedTuple):
    vocabulary: int
    dim: int
    depth: int
    heads: int
    batch: int
    context: int


TEXT = {
    "text-1": Shape(512, 256, 4, 4, 4, 128),
    "text-2": Shape(512, 256, 4, 4, 8, 256),
    "text-3": Shape(512, 384, 6, 6, 4, 256),
    "text-4": Shape(4096, 256, 4, 4, 4, 128),
    "text-5": Shape(512, 384, 6, 6, 2, 512),
}
PRECISIONS = ("float32", "bfloat16", "bfloat16-against-float32")  # of both, but for the last
IMAGE = {"image-1": (64, 8, 256, 4, 4, 8), "image-2": (128, 16, 384, 6, 6, 8)}  # side, patch, D, L, H, B

# The flags of the reference's scripts, and those without which its code does not run.
COMMON: dict[str, Any] = {
    "modality": "NLP",
    "model_name": "ebt",
    "execution_mode": "pretrain",
    "context_length": 0,
    "batch_size_per_device": 64,
    "ffn_dim_multiplier": None,
    "weight_initialization_method": "xavier",
    "weight_initialization_gain": 1.0,
    "ebt_type": "time_embed",
    "ebt_norm": "rms",
    "ebt_act_func": "silu",
    "dyt_alpha_init": 0.5,
    "normalize_initial_condition": True,
    "normalize_initial_condition_only_first_step": False,
    "denoising_initial_condition": "random_noise",
    "gaussian_random_noise_scaling": 1.0,
    "vocab_to_embed_uses_prob_dist": False,
    "num_modality_processing_mlp_layers": 1,
    "mcmc_step_size": 500.0,
    "mcmc_step_size_learnable": True,
    "mcmc_num_steps": 2,
    "mcmc_replay_buffer": False,
    "randomize_mcmc_step_size_scale": 1.0,
    "randomize_mcmc_num_steps": 0,
    "randomize_mcmc_num_steps_min": 0,
    "randomize_mcmc_num_steps_final_landscape": False,
    "langevin_dynamics_noise": 0.0,
    "langevin_dynamics_noise_learnable": False,
    "no_langevin_during_eval": False,
    "no_mcmc_detach": False,
    "truncate_mcmc": False,
    "clamp_futures_grad": False,
    "clamp_futures_grad_max_change": 9.0,
    "clamp_max_after_warm_up": 0.0,
    "absolute_clamp": 0.0,
    "sharpen_predicted_distribution": 0.0,
    "soften_target_prob_dist": 0.0,
    "reconstruction_coeff": 1.0,
    "contrastive_loss": False,
    "debug_unused_parameters": False,
    "infer_ebt_advanced": False,
}
# The second stage's draws (step scale, noise) are left out: they cost both the same, and losses could not be compared.
SECOND = {
    "mcmc_step_size": 5.0,
    "mcmc_step_size_learnable": False,
    "mcmc_num_steps": 1,
    "randomize_mcmc_num_steps": 2,
    "randomize_mcmc_num_steps_min": 3,
    "truncate_mcmc": True,
    "no_mcmc_detach": True,
}


# ----------------------------------------------------------------------------------------------------------- stand-ins


class Flags(dict[str, Any]):
    """A dictionary whose entries are attributes."""

    __getattr__ = dict.__getitem__


class LightningModule(nn.Module):
    """Holds hyper-parameters and tells the device: all that the reference's models ask of Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.hparams = Flags()
        self.device = torch.device("cpu")


class Tokenizer:
    """Has a size, which it takes for its name, and an end-of-text token, which is no target."""

    eos_token_id = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> Tokenizer:
        return cls(int(name))


class StandIn(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def models_of(folder: Path) -> tuple[Any, Any]:
    """Imports the reference's text and image models."""
    if not (folder / "model" / "nlp" / "ebt.py").exists():
        raise SystemExit(f"--reference {folder}: there is no model/nlp/ebt.py; pass a checkout of github.com/alexiglad/EBT")
    names = ("pytorch_lightning", "torchmetrics", "transformers", "diffusers", "torchvision")
    names += ("torchvision.models", "torchvision.utils", "torchvision.transforms", "torchvision.transforms.functional")
    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    import timm.models.vision_transformer  # noqa: F401  # which takes the real torchvision, if any

    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    for name in own:
        del sys.modules[name]
    sys.modules.update({name: StandIn(name) for name in names})
    sys.modules["pytorch_lightning"].LightningModule = LightningModule
    sys.modules["transformers"].AutoTokenizer = Tokenizer
    sys.path.insert(0, str(folder))
    try:
        from model.img.ebt_denoise import EBT_IMG_Denoise
        from model.nlp.ebt import EBT_NLP
    finally:
        sys.path.remove(str(folder))
        for name in names:
            del sys.modules[name]
        sys.modules.update(own)
    return EBT_NLP, EBT_IMG_Denoise


# -------------------------------------------------------------------------------------------------------------- cases

Taken = tuple[float, dict[str, Tensor]]  # a loss, and gradients by the reference's names
Take = Callable[[], Any]


def flags_of(name: str, second: bool) -> Flags:
    flags = Flags({**COMMON, **(SECOND if second else {})})
    if name in TEXT:
        vocabulary, flags["embedding_dim"], depth, heads, _, flags["context_length"] = TEXT[name]
        flags["tokenizer"] = str(vocabulary)
    else:
        side, flags["patch_size"], flags["embedding_dim"], depth, heads, _ = IMAGE[name]
        flags |= {"modality": "IMG", "image_task": "denoising", "image_dims": [side, side], "ffn_dim_multiplier": 1.0}
        flags |= {"diffusion_steps": 100, "denoise_images_noise_level": 0.1, "randomize_denoise_images_noise_level": False}
        flags |= {"mcmc_step_size": 3000.0, "mcmc_num_steps": 1, "dataset_name": "", "log_image_every_n_steps": 1}
    return flags | {"num_transformer_blocks": depth, "multiheaded_attention_heads": heads}


def pair(folder: Path, name: str, second: bool, precision: str, what: str) -> tuple[Take, ...]:
    """Makes what takes one step of ours, and one of the reference's, from the same weights, data and start.

    For training there is a third, ours in float64.
    """
    bfloat16, its_bfloat16 = precision != "float32", precision == "bfloat16"
    text, image = models_of(folder)
    torch.manual_seed(0)
    flags = flags_of(name, second)
    model = (text if name in TEXT else image)(Flags(flags))
    for key, parameter in model.named_parameters():
        if key.endswith(("adaLN_modulation.1.weight", "final_layer.linear.weight")):  # zero at first: no gradient would flow
            nn.init.normal_(parameter, std=0.05)
    read = from_ebt_checkpoint(model.state_dict(), flags)
    autocast, its_autocast = (
        (lambda: torch.autocast("cpu", torch.bfloat16)) if half else nullcontext for half in (bfloat16, its_bfloat16)
    )
    if name in TEXT:
        shape = TEXT[name]
        ids = torch.randint(1, shape.vocabulary, (shape.batch, shape.context + 1))
        start = torch.randn(shape.batch, shape.context, shape.vocabulary)
        model.corrupt_embeddings = lambda embeddings: start.detach()
        inputs, batch = {"input_ids": ids}, Batch(ids[:, 1:], ids[:, :-1])
    else:
        side, batch_size = IMAGE[name][0], IMAGE[name][-1]
        clean, start = torch.rand(batch_size, 3, side, side) * 2 - 1, torch.randn(batch_size, 3, side, side)
        model.diffusion.q_sample = lambda images, t: start
        done = types.SimpleNamespace(current=types.SimpleNamespace(completed=0))
        loop = types.SimpleNamespace(epoch_loop=types.SimpleNamespace(batch_progress=done))
        model.trainer = types.SimpleNamespace(fit_loop=loop, accumulate_grad_batches=2, global_step=1)  # logs no picture
        inputs, batch = {"image": clean}, Batch(clean, start)
    energy, objective = read.energy, read.objective
    parameters = {f"energy.{key}": p for key, p in energy.named_parameters()}
    parameters |= {f"sampler.{key}": p for key, p in read.sampler.named_parameters()}

    def train() -> Taken:
        energy.zero_grad()
        objective.zero_grad()
        with autocast():
            loss = objective(energy, batch, start=start).value
        loss.backward()
        return loss.item(), {ours: p.grad for ours, p in parameters.items() if p.grad is not None}

    def train_exactly() -> Taken:
        """Takes our step in float64."""
        exact, goal = copy.deepcopy((energy, objective))
        exact.double().zero_grad()
        goal.double().zero_grad()
        start64, target = start.double(), batch.target
        data = Batch(target.double() if target.is_floating_point() else target, batch.context)
        loss = goal(exact, data, start=start64).value
        loss.backward()
        found = {f"energy.{key}": p.grad for key, p in exact.named_parameters() if p.grad is not None}
        return loss.item(), found

    def train_reference() -> Taken:
        model.zero_grad()
        with its_autocast():
            loss = model.forward_loss_wrapper(inputs, "train")["loss"]
        loss.backward()
        grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

        def of(key: str | tuple[str, ...]) -> Tensor:
            return grads[key] if isinstance(key, str) else torch.cat([grads[one] for one in key])

        keys = {ours: key for ours, key in read.names.items() if (key if isinstance(key, str) else key[0]) in grads}
        return loss.item(), {ours: of(key) for ours, key in keys.items()}

    def evaluate() -> Taken:
        with torch.no_grad(), autocast():
            found = read.predictor.predict(batch, start)
            if name in TEXT:
                return F.cross_entropy(found.y.flatten(0, 1).float(), batch.target.flatten()).item(), {}
            return F.smooth_l1_loss(found.y, batch.target).item(), {}

    def evaluate_reference() -> Taken:
        with torch.no_grad(), its_autocast():
            return model.forward_loss_wrapper(inputs, "valid")["final_step_loss"].item(), {}

    def write() -> list[list[int]]:
        how = {"max_new_tokens": 8, "window": shape.context, "temperature": 0, "start": "uniform"}
        with autocast():
            return torch.stack([*generate(energy, read.sampler, ids[:, : shape.context - 8].tolist(), **how)], 1).tolist()

    def write_reference() -> list[list[int]]:
        model.corrupt_embeddings = lambda embeddings: torch.zeros(*embeddings.shape[:2], shape.vocabulary)
        tokens = ids[:, : shape.context - 8]
        with torch.no_grad(), its_autocast():
            for _ in range(8):
                logits = model.forward(tokens, learning=False, return_raw_logits=True)[0][-1]
                tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
        return tokens[:, -8:].tolist()

    steps = {"train": (train, train_reference, train_exactly), "evaluate": (evaluate, evaluate_reference)}
    return {**steps, "generate": (write, write_reference)}[what]


def agree(ours: Any, theirs: Any, exact: Taken | None, bfloat16: bool) -> str:
    """Says how far losses and gradients differ, or stops where they do more than rounding explains.

    Steps from a random start amplify rounding, in either program. So float64 decides: the reference
    is near it, and we are no farther from it than a few times the reference.
    """
    if isinstance(ours, list):
        same = sum(a == b for rows in zip(ours, theirs, strict=True) for a, b in zip(*rows, strict=True))
        return f"{same} of {sum(map(len, ours))} tokens"
    (loss, grads), (other, others) = ours, theirs
    error, apart = abs(loss - other) / abs(other), far(grads, others)
    fits = error <= (0.1 if bfloat16 else 1e-3) and grads.keys() >= others.keys()
    if exact is not None and not bfloat16:
        mine, its = far(grads, exact[1]), far(others, exact[1])
        fits = fits and its < 5e-2 and mine <= max(4 * its, 1e-4)
    if not fits:
        raise SystemExit(f"losses {loss} and {other}, gradients differ by {apart:.1e}: this is no comparison")
    return f"{error:.0e}" + (f", {apart:.0e}" if others else "")


def far(grads: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Measures how far gradients are from others, relative to these: the farthest parameter's."""
    common = grads.keys() & others.keys()
    errors = [
        ((grads[key].double() - (g := others[key].double().view_as(grads[key]))).norm() / g.norm()).item() for key in common
    ]
    return max(errors, default=0.0)


# ---------------------------------------------------------------------------------------------------------- measuring


def timed(take: Take, threads: int) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    begin = clock()
    take()
    return clock() - begin


def peak(*case: Any) -> float:
    """Measures the peak memory (MB) of two steps beyond that of model and batch, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, case)


def _peak(folder: Path, name: str, second: bool, precision: str, side: int, threads: int) -> float:
    torch.set_num_threads(threads)
    take = pair(folder, name, second, precision, "train")[side]
    return peak_of(take)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="FOLDER", help="a checkout of github.com/alexiglad/EBT")
    parser.add_argument(
        "--only", nargs="+", default=[], help=f"of {', '.join((*TEXT, *IMAGE))}, S1, S2, float32, bfloat16, train …"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="torch's, each in turn (1)")
    parser.add_argument("--memory", action="store_true", help="peaks of memory, too")
    parser.add_argument("--record", action="store_true", help="write the ratios into reference.json")
    return parser.parse_args(arguments)


def cases() -> list[tuple[str, str, str, str]]:
    """Lists (shape, stage, precision, what is timed)."""
    listed = [(name, stage, kind, "train") for name in TEXT for stage in ("S1", "S2") for kind in PRECISIONS]
    listed += [("text-1", stage, "float32", what) for stage in ("S1", "S2") for what in ("evaluate", "generate")]
    return listed + [(name, "S1", kind, "train") for name in IMAGE for kind in PRECISIONS]


def main(arguments: list[str] | None = None) -> int:
    settings = parse(arguments)
    recorded = Recorded(__file__, settings.record)
    columns = ("shape", "stage", "precision", "what", "threads", "ms", "reference, ms", "ratio (quartiles)", "recorded")
    table, chosen = Table(*columns, "difference", "memory"), {*settings.only}
    axes = [{*axis} for axis in zip(*cases(), strict=True)]
    if unknown := chosen - set().union(*axes):
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: choose from {', '.join(sorted(set().union(*axes)))}")
    for case in cases():
        if any(chosen & axis and value not in chosen for value, axis in zip(case, axes, strict=True)):
            continue
        name, stage, precision, what = case
        how = (settings.reference, name, stage == "S2", precision)
        ours, theirs, *exact = pair(*how, what)
        half = precision != "float32"
        for threads in settings.threads:
            torch.set_num_threads(threads)
            difference = agree(ours(), theirs(), exact[0]() if exact and not half else None, half)
            pairs = [(timed(ours, threads), timed(theirs, threads)) for _ in range(settings.rounds)]
            low, ratio, high = statistics.quantiles([b / a for a, b in pairs], n=4)
            mine, its = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
            key, memory = f"{' '.join(case)}, threads {threads}", ""
            if settings.memory and what == "train":
                a, b = (peak(*how, side, threads) for side in (0, 1))
                memory = f"{a:.0f} / {b:.0f} MB = {a / b:.2f}"
            bar, times = recorded.see(key, ratio), f"{ratio:.2f} ({low:.2f}-{high:.2f})"
            told = "" if bar is None else str(bar)
            table.add_row(*case, str(threads), f"{mine:.0f}", f"{its:.0f}", times, told, difference, memory)
            print(f"{key}: {times}, {mine:.0f} and {its:.0f} ms, {difference} {memory}", file=sys.stderr)
    Console(width=160).print(table)
    return recorded.end()


if __name__ == "__main__":
    sys.exit(main())
