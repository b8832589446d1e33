"""Reads checkpoints of the Energy-Based Transformers reference (alexiglad/EBT), by its key and flag
names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ebm.baselines import Transformer
from ebm.energies.ebt import FrameEBT, ImageEBT, TextEBT
from ebm.energies.ebt.blocks import Block
from ebm.interfaces import Batch, Energy, Objective, Predictor, Sampler
from ebm.objectives import Reconstruction
from ebm.randomness import randn_like
from ebm.samplers import GradientDescent, Monotone, ReplayAugmented
from ebm.thinking import Thinker
from ebm.words import nearest

Names = dict[str, str | tuple[str, ...]]

KINDS = {kind: kind for kind in ("text_ebt", "video_ebt", "image_ebt", "text_transformer")} | {"text_thinking": "text_ebt"}
CONDITIONING = {"default": "none", "time_embed": "time", "adaln": "adaln", "adaln_zero": "adaln-zero"}
SELECT: dict[str, Any] = {"min": "min", "max": "max", "max_gap": "max-drop"}
STEP_SIZE, NOISE, POSITIONS = "alpha", "langevin_dynamics_noise_std", "transformer.pos_embed"

# Flags of the reference that we have no counterpart of, and the values at which they do nothing.
IDLE: dict[str, tuple[Any, ...]] = {
    "ebt_norm": ("rms",),
    "ebt_act_func": ("silu",),
    "num_modality_processing_mlp_layers": (1,),
    "normalize_initial_condition_only_first_step": (False,),
    "sharpen_predicted_distribution": (0,),
    "soften_target_prob_dist": (0,),
    "absolute_clamp": (0,),
    "contrastive_loss": (False,),
    "learnable_process_memory": (False,),
    "denoising_initial_condition": ("random_noise", "zeros"),
    "infer_steps_final_landscape": (False,),
    "infer_alpha_final_landscape": (False,),
    "infer_langevin_first_step": (False,),
}


class Imported(NamedTuple):
    """A checkpoint of the reference as components of ours; a feed-forward one has a predictor
    alone.

    `names` maps "energy.<parameter>", "sampler.<parameter>" or "predictor.<parameter>" to the
    reference's key, or to several keys that we hold stacked along axis 0.
    """

    energy: Energy | None
    sampler: Sampler | None
    objective: Objective | None
    predictor: Predictor
    names: Names


def from_ebt_checkpoint(
    state_dict_or_path: Mapping[str, Tensor] | str | Path, hparams: Mapping[str, Any] | Any = None, kind: str | None = None
) -> Imported:
    """Reads a checkpoint of the reference: its weights, its inner loop, its loss and how it thinks
    at inference.

    Arguments:
        state_dict_or_path: a state dict, or the path of a .safetensors or of a pickled checkpoint,
            which is read with `weights_only=True`; keys may have the prefixes `model.` and
            `_orig_mod.`.
        hparams: the reference's flags, as a mapping or a namespace; by default those in the
            checkpoint.
        kind: text_ebt, video_ebt, image_ebt or text_transformer; by default told from the flags
            `modality` and `model_name`.

    An image model's objective starts at `batch.context`, the noised images (or a `Noisy` that has
    them).

    Two things differ on purpose: an accepted-only-if-lower step keeps a rejected state as it was
    (the reference flattens it), and evaluation draws no noise of its own but what the inference
    flags ask for.

    Raises:
        ValueError: for missing, unexpected or misshapen keys (which are named), a flag that we have
            no counterpart of, or a file that is no such checkpoint.
    """
    state, found = _read(state_dict_or_path)
    given = found if hparams is None else hparams
    if given is None:
        raise ValueError("the checkpoint holds no hyper-parameters: pass hparams, the flags that it was trained with")
    flags = dict(given if isinstance(given, Mapping) else vars(given))
    kind = _kind(kind, flags)
    for name, idle in IDLE.items():
        if flags.get(name) not in (None, *idle):
            raise ValueError(f"hparams[{name!r}] is {flags[name]!r}, which has no counterpart here; it can be {idle[0]!r}")
    state = {key.replace("_orig_mod.", "").removeprefix("model."): value for key, value in state.items()}
    if kind == "text_transformer":
        model = Transformer(_shape(state, "embeddings.weight", 2)[0], hidden=_hidden(flags), **_size(flags))
        names = {"embedding.weight": "embeddings.weight", "output.weight": "output.weight", **_stream(model.blocks)}
        _load(model, names, state, ())
        return Imported(None, None, None, model, {f"predictor.{name}": key for name, key in names.items()})
    if (variant := flags.get("ebt_type", "default")) not in CONDITIONING:
        raise ValueError(f"hparams['ebt_type'] is {variant!r}: {nearest(str(variant), CONDITIONING)}")
    make: Callable[..., tuple[Any, Names]] = {"text_ebt": _text, "video_ebt": _frames, "image_ebt": _image}[kind]
    energy, names = make(state, flags, CONDITIONING[variant])
    _load(energy, names, state, (STEP_SIZE, NOISE, POSITIONS))
    sampler = _sampler(state, flags, kind)
    objective = _objective(sampler, flags, energy, kind)
    every: Names = {f"energy.{name}": key for name, key in names.items()}
    every |= {f"sampler.{name}": STEP_SIZE for name, _ in sampler.named_parameters()}
    return Imported(energy, sampler, objective, _thinker(energy, sampler, flags), every)


def _read(source: Mapping[str, Tensor] | str | Path) -> tuple[Mapping[str, Tensor], Any]:
    """Reads (state dict, hyper-parameters or None)."""
    if isinstance(source, Mapping):
        held: Any = source
    elif str(source).endswith(".safetensors"):
        try:
            held = load_file(source)
        except SafetensorError as error:
            raise ValueError(f"{source} cannot be read as safetensors: {error}") from error
    else:
        try:
            held = torch.load(source, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"{source} cannot be read without running code that it holds (weights_only=True): {error}"
            ) from error
    state = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{source if isinstance(source, str | Path) else 'the mapping'} is no state dict: names to tensors")
    if bad := [name for name, value in state.items() if value.is_floating_point() and bool(value.isnan().any())]:
        shown = source if isinstance(source, str | Path) else "the mapping"
        raise ValueError(f"{shown} holds weights that are NaN: {', '.join(bad[:3])}")
    return state, held.get("hyper_parameters") if held is not state else None


def _kind(kind: str | None, flags: Mapping[str, Any]) -> str:
    if kind is None:
        modality, model = str(flags.get("modality", "NLP")).upper(), str(flags.get("model_name", "ebt"))
        kind = {"NLP": "text", "VID": "video", "IMG": "image"}.get(modality, modality)
        kind += "_transformer" if "transformer" in model else f"_{model}"
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} cannot be read: {nearest(kind, KINDS)}")
    return KINDS[kind]


def _size(flags: Mapping[str, Any]) -> dict[str, Any]:
    sizes = ("embedding_dim", "num_transformer_blocks", "multiheaded_attention_heads")
    missing = [name for name in sizes if not flags.get(name)]
    if missing and not flags.get("model_size"):
        raise ValueError(f"hparams has neither model_size nor {', '.join(missing)}")
    found = {ours: flags.get(name) or None for ours, name in zip(("dim", "depth", "heads"), sizes, strict=True)}
    return {**found, "size": flags.get("model_size") if missing else None}


def _hidden(flags: Mapping[str, Any]) -> int | None:
    multiplier = flags.get("ffn_dim_multiplier")
    return None if multiplier is None else int(flags["embedding_dim"] * multiplier)


def _levels(flags: Mapping[str, Any]) -> int:
    return int(flags.get("mcmc_num_steps", 2))


def _text(state: Mapping[str, Tensor], flags: Mapping[str, Any], conditioning: Any) -> tuple[TextEBT, Names]:
    tied = bool(flags.get("vocab_to_embed_uses_prob_dist"))
    vocab_size = _shape(state, "embeddings.weight", 2)[0]
    shape = {"hidden": _hidden(flags), "conditioning": conditioning, "levels": _levels(flags), **_size(flags)}
    energy = TextEBT(vocab_size, tied=tied, **shape)
    names: Names = {"embedding.weight": "embeddings.weight"}
    if not tied:
        names["candidate.weight"] = "vocab_to_embed.weight"
    return energy, names | _conditioned(energy)


def _frames(state: Mapping[str, Tensor], flags: Mapping[str, Any], conditioning: Any) -> tuple[FrameEBT, Names]:
    projection = "encoder_down_projection"
    shape = {"hidden": _hidden(flags), "conditioning": conditioning, "levels": _levels(flags), **_size(flags)}
    energy = FrameEBT(_shape(state, f"{projection}.weight", 2)[1], **shape)
    names: Names = {f"projection.{part}": f"{projection}.{part}" for part in ("weight", "bias")}
    return energy, names | _conditioned(energy)


def _image(state: Mapping[str, Tensor], flags: Mapping[str, Any], conditioning: Any) -> tuple[ImageEBT, Names]:
    shape = _shape(state, "transformer.x_embedder.proj.weight", 4)
    height, width = flags["image_dims"]
    multiplier = float(flags.get("ffn_dim_multiplier") or 1.0)
    energy = ImageEBT((height, width), shape[2], shape[1], mlp_ratio=multiplier, **_size(flags))
    if POSITIONS in state and not torch.allclose(state[POSITIONS][0], energy.positions, atol=1e-5):
        raise ValueError(f"{POSITIONS} holds other positions than sines and cosines of rows and columns")
    names: Names = {"condition": "learned_adaln_condition.weight", "head.weight": "transformer.final_layer.linear.weight"}
    for part in ("weight", "bias"):
        names[f"patches.proj.{part}"] = f"transformer.x_embedder.proj.{part}"
        names[f"final_modulation.{part}"] = f"transformer.final_layer.adaLN_modulation.1.{part}"
        for index in range(len(energy.mlps)):
            theirs = f"transformer.blocks.{index}"
            names |= {f"attentions.{index}.{layer}.{part}": f"{theirs}.attn.{layer}.{part}" for layer in ("qkv", "proj")}
            names |= {f"mlps.{index}.{layer}.{part}": f"{theirs}.mlp.{layer}.{part}" for layer in ("fc1", "fc2")}
            names[f"modulations.{index}.{part}"] = f"{theirs}.adaLN_modulation.1.{part}"
    return energy, names


def _stream(blocks: nn.ModuleList) -> Names:
    """Names the parameters of the blocks and of the final norm."""
    names: Names = {"norm.weight": "transformer.norm.weight"}
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        ours, theirs = f"blocks.{index}", f"transformer.layers.{index}"
        names |= {
            f"{ours}.attention_norm.weight": f"{theirs}.attention_norm.weight",
            f"{ours}.qkv.weight": tuple(f"{theirs}.attention.w{part}.weight" for part in "qkv"),
            f"{ours}.out.weight": f"{theirs}.attention.wo.weight",
            f"{ours}.feed_forward_norm.weight": f"{theirs}.ffn_norm.weight",
            f"{ours}.gate_up.weight": tuple(f"{theirs}.feed_forward.w{part}.weight" for part in "13"),
            f"{ours}.down.weight": f"{theirs}.feed_forward.w2.weight",
        }
    return names


def _conditioned(energy: TextEBT | FrameEBT) -> Names:
    names = _stream(energy.blocks)
    if energy.conditioning != "none":
        names["level_embedding.weight"] = "transformer.time_embeddings.weight"
    if not energy.conditioning.startswith("adaln"):
        return names | {"head.weight": "transformer.final_layer.weight"}
    names["head.weight"] = "transformer.final_layer.linear.weight"
    for part in ("weight", "bias"):
        names[f"final_modulation.{part}"] = f"transformer.final_layer.adaLN_modulation.1.{part}"
        for index in range(len(energy.blocks)):
            names[f"modulations.{index}.{part}"] = f"transformer.layers.{index}.adaLN_modulation.1.{part}"
    return names


def _shape(state: Mapping[str, Tensor], key: str, ndim: int) -> torch.Size:
    if key not in state or state[key].ndim != ndim:
        raise ValueError(f"the checkpoint has no {key} with {ndim} axes: {nearest(key, state)}")
    return state[key].shape


def _load(model: nn.Module, names: Names, state: Mapping[str, Tensor], others: tuple[str, ...]) -> None:
    """Loads a state dict by the names of its keys.

    Raises:
        ValueError: naming all keys that are missing, unexpected or misshapen.
    """
    parameters = dict(model.named_parameters())
    assert parameters.keys() == names.keys(), parameters.keys() ^ names.keys()
    keys = {name: key if isinstance(key, tuple) else (key,) for name, key in names.items()}
    expected = {key for group in keys.values() for key in group}
    wrong = [f"missing {key}" for key in sorted(expected - state.keys())]
    wrong += [f"unexpected {key}" for key in sorted(state.keys() - expected - set(others))]
    loaded = {}
    for name, group in keys.items():
        if all(key in state for key in group):
            whole = parameters[name].shape
            shape = (whole[0] // len(group), *whole[1:])
            wrong += [
                f"{key} has shape {tuple(state[key].shape)} instead of {shape}" for key in group if state[key].shape != shape
            ]
            loaded[name] = [state[key] for key in group]
    if wrong:
        raise ValueError("the checkpoint does not fit its hyper-parameters: " + "; ".join(wrong))
    dtype = next(iter(loaded.values()))[0].dtype
    model.to(dtype).load_state_dict({name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in loaded.items()})


def _sampler(state: Mapping[str, Tensor], flags: Mapping[str, Any], kind: str) -> GradientDescent:
    """Makes the inner loop: one step per landscape, or a number of them drawn for each."""
    step_size = float(state.get(STEP_SIZE, torch.tensor(float(flags.get("mcmc_step_size", 60.0)))))
    repeats = int(flags.get("randomize_mcmc_num_steps") or 0)
    if repeats and flags.get("randomize_mcmc_num_steps_final_landscape") and _levels(flags) > 1:
        raise ValueError("hparams['randomize_mcmc_num_steps_final_landscape'] has no counterpart for several landscapes")
    fewest = max(1, int(flags.get("randomize_mcmc_num_steps_min") or 0))
    noise = float(state.get(NOISE, torch.tensor(float(flags.get("langevin_dynamics_noise") or 0.0))))
    if not flags.get("langevin_dynamics_noise"):
        noise = 0.0
    if noise and kind == "video_ebt":
        raise ValueError(
            "hparams['langevin_dynamics_noise'] of a video model is noise on embeddings, which has no counterpart here"
        )
    clip = float(flags.get("clamp_futures_grad_max_change", 9.0)) / step_size if flags.get("clamp_futures_grad") else None
    again = _levels(flags) if kind == "image_ebt" else 1  # an image's landscapes are all one
    return GradientDescent(
        step_size,
        (again * fewest, again * (repeats + 1)) if repeats else again,
        retraction="softmax" if kind == "text_ebt" and flags.get("normalize_initial_condition", True) else None,
        noise_std=noise,
        learnable=bool(flags.get("mcmc_step_size_learnable")),
        step_scale=float(flags.get("randomize_mcmc_step_size_scale") or 1.0),
        grad_clip=clip,
    )


def _objective(sampler: GradientDescent, flags: Mapping[str, Any], energy: Energy, kind: str) -> Reconstruction:
    last = bool(flags.get("truncate_mcmc"))
    wide = float(flags.get("gaussian_random_noise_scaling", 1.0)) if kind == "text_ebt" else 1.0
    wide = 0.0 if flags.get("denoising_initial_condition") == "zeros" else wide
    vocab_size = energy.vocab_size if isinstance(energy, TextEBT) else None
    loop: Sampler = sampler
    if flags.get("mcmc_replay_buffer"):
        loop = ReplayAugmented(sampler, int(flags.get("mcmc_replay_buffer_size", 192)), join=0.5)

    def start(batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        like = batch.target
        if kind == "image_ebt":
            return getattr(batch.context, "image", batch.context)
        if vocab_size is not None:
            like = torch.empty((*like.shape, vocab_size), device=like.device)
        return wide * randn_like(like, generator)

    def text(y: Tensor, batch: Batch) -> Tensor:
        target = batch.target.expand(y.shape[:-1])
        return F.cross_entropy(y.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)

    def images(y: Tensor, batch: Batch) -> Tensor:
        return F.smooth_l1_loss(y, batch.target.expand_as(y), reduction="none").flatten(-3).mean(-1)

    def frames(y: Tensor, batch: Batch) -> Tensor:
        return F.smooth_l1_loss(y, batch.target.expand_as(y), reduction="none").mean(-1)

    distance = {"text_ebt": text, "video_ebt": frames, "image_ebt": images}[kind]
    unroll: Any = "last" if last else "full" if flags.get("no_mcmc_detach") else "each"
    return Reconstruction(loop, start=start, distance=distance, reduce="last" if last else "mean", unroll=unroll)


def _thinker(energy: Energy, sampler: GradientDescent, flags: Mapping[str, Any]) -> Thinker:
    """Makes the predictor that the inference flags describe; without them, training's own inner
    loop."""
    if not flags.get("infer_ebt_advanced"):
        return Thinker(energy, sampler)
    trained = sampler.step_size
    step_size = trained if isinstance(trained, float) else float(trained.detach())
    override = float(flags.get("infer_ebt_override_alpha") or 0.0)
    if override:
        step_size = override if override >= 1 else step_size * override
    asked = int(flags.get("infer_ebt_num_steps") or 1)
    if asked == 1:
        asked = max(1, int(flags.get("randomize_mcmc_num_steps_min") or 0))
    elif flags.get("ebt_type", "default") == "default":  # its landscapes are all one, and so many steps are taken in all
        if asked % energy.levels:
            raise ValueError(f"hparams['infer_ebt_num_steps'] is {asked}, which {energy.levels} landscapes cannot share")
        asked //= energy.levels
    technique = str(flags.get("infer_energy_sampling_technique", "min"))
    if technique not in SELECT:
        raise ValueError(f"hparams['infer_energy_sampling_technique'] is {technique!r}: {nearest(technique, SELECT)}")
    noise = float(flags.get("infer_langevin_dynamics_noise") or 0.0) or sampler.noise_std
    loop: Sampler = GradientDescent(step_size, asked, retraction=sampler.retraction, noise_std=noise)
    if flags.get("infer_accept_lower_energies"):
        loop = Monotone(loop)
    return Thinker(energy, loop, candidates=int(flags.get("infer_generated_samples") or 1), select=SELECT[technique])
