"""Golden numbers: energies, states, losses and gradients of the reference, on whole small cases with its own random draws.

The files are not part of the repository: set EBT_REFERENCE to the folder that holds them, or keep it as ../shared/reference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ebm
from ebm.interfaces import Batch, State
from ebm.interop import from_ebt_checkpoint

FOLDER = Path(os.environ.get("EBT_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))
# What its README recommends, as max |a - b| / max |b| over a tensor.
TOLERANCE = {
    "text_default_s1": 2e-5,
    "text_time_embed_s1": 5e-5,
    "text_adaln_s1": 2e-5,
    "text_time_embed_s2": 1e-4,
    "text_time_embed_no_detach": 1e-4,
    "text_thinking": 1.5e-4,
    "video_time_embed_s1": 1e-5,
    "image_denoise_s1": 5e-6,
    "transformer_pp_text": 5e-6,
}
TRAINED = [name for name in TOLERANCE if name not in ("text_thinking", "transformer_pp_text")]


class Golden:
    """One file: its tensors, hyper-parameters and kind, and what is read from its weights."""

    def __init__(self, name: str) -> None:
        path = FOLDER / f"{name}.safetensors"
        if not path.exists():
            pytest.skip(f"{path} is not here")
        with safe_open(path, "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dictionary
            metadata = file.metadata()
        self.name, self.kind = name, metadata["kind"]
        self.hparams, self.dims = json.loads(metadata["hparams"]), json.loads(metadata["dims"])
        self.state = {key[6:]: value for key, value in self.tensors.items() if key.startswith("param/")}
        self.read = from_ebt_checkpoint(self.state, self.hparams)

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def batch(self) -> Batch:
        if self.kind == "video_ebt":
            frames = self["input/frame_embeddings"]
            return Batch(frames[:, 1:], frames[:, :-1])
        if self.kind == "image_ebt":
            return Batch(self["input/clean"], self["input/initial_state"])
        ids = self["input/input_ids"]
        return Batch(ids[:, 1:], ids[:, :-1], (ids[:, 1:] != 0).float())

    def agrees(self, value: torch.Tensor, key: str, tolerance: float | None = None) -> None:
        expected = self[key]
        assert value.shape == expected.shape, key
        error = (value - expected).abs().max() / expected.abs().max()
        assert error <= (TOLERANCE[self.name] if tolerance is None else tolerance), f"{key}: {error:.2e}"

    def gradients_agree(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        compared = set()
        for ours, theirs in self.read.names.items():
            keys = theirs if isinstance(theirs, tuple) else (theirs,)
            compared |= set(keys)
            grad = parameters[ours].grad
            for key, part in zip(keys, grad.chunk(len(keys)) if len(keys) > 1 else [grad], strict=True):
                expected = self[f"grad/{key}"]
                self.agrees(part.reshape(expected.shape), f"grad/{key}")
        assert compared == {key[5:] for key in self.tensors if key.startswith("grad/")}  # every gradient was looked at


def replay_draws(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the sampler draw what the reference drew: the step scale, the number of steps, Langevin noise."""
    noise = iter([value for key, value in sorted(golden.tensors.items()) if key.startswith("input/langevin")])
    monkeypatch.setattr("ebm.samplers.stepping.SteppingSampler.normals", lambda self, z, generator: next(noise))
    if "input/alpha_uniform" in golden.tensors:
        uniform = golden["input/alpha_uniform"][..., 0]
        monkeypatch.setattr(torch, "rand", lambda *shape, **options: uniform)
        drawn = golden["input/num_steps_drawn"][0]
        monkeypatch.setattr(torch, "randint", lambda *bounds, **options: drawn)


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_references(name, monkeypatch):
    golden = Golden(name)
    energy, sampler, objective, _, _ = golden.read
    start, batch = golden["input/initial_state"], golden.batch()
    steps = []
    trajectory = type(sampler).trajectory

    def watched(self, *arguments, **options):
        for state, info in trajectory(self, *arguments, **options):
            steps.append((state.y, info.energy, info.grad))
            yield state, info

    monkeypatch.setattr(type(sampler), "trajectory", watched)
    replay_draws(golden, monkeypatch)
    loss = objective(energy, batch, start=start)
    assert len(steps) == golden.dims["K"]
    for k, (state, value, grad) in enumerate(steps):
        golden.agrees(value, f"energy/step{k}")
        golden.agrees(grad, f"inner_grad/step{k}")
        golden.agrees(state, f"state/step{k}")
    golden.agrees(loss.value, "loss", 5e-6)
    golden.agrees(loss.terms["first_step"], "log/initial_loss", 5e-6)
    golden.agrees(loss.terms["last_step"], "log/final_step_loss", 5e-6)
    loss.value.backward()
    parameters = {f"energy.{key}": p for key, p in energy.named_parameters()}
    golden.gradients_agree(parameters | {f"sampler.{key}": p for key, p in sampler.named_parameters()})


def test_step_sizes_drawn_are_the_references(monkeypatch):
    golden = Golden("text_time_embed_s2")
    sampler, effective = golden.read.sampler, golden["input/alpha_effective"]
    replay_draws(golden, monkeypatch)
    scale = sampler.scale(State(golden["input/initial_state"]), golden["energy/step0"], None)
    torch.testing.assert_close(sampler.step_size * scale[..., None], effective)


def test_thinking_is_the_references():
    golden = Golden("text_thinking")
    thinker, ids, candidates = golden.read.predictor, golden["input/input_ids"], golden.dims["G"]
    start = golden["input/initial_state"].unflatten(0, (len(ids), candidates)).transpose(0, 1)
    thought = ebm.think(thinker.energy, thinker.sampler, ids, start, candidates=candidates)
    golden.agrees(thought.y, "output")
    for k, energies in enumerate(thought.energies):
        key = f"energy/step{k}" if k < golden.dims["K"] else "energy/final"
        golden.agrees(energies.transpose(0, 1).flatten(0, 1), key)
    assert torch.equal(thought.energies[-1].argmin(0), golden["selected_index"])
    assert torch.equal(thinker.predict(Batch(ids, ids), start).y, thought.y)


def test_the_feed_forward_model_is_the_references():
    golden = Golden("transformer_pp_text")
    assert golden.read[:3] == (None, None, None)
    batch = golden.batch()
    logits = golden.read.predictor.logits(batch.context)
    golden.agrees(logits, "logits")
    loss = batch.mean(torch.nn.functional.cross_entropy(logits.mT, batch.target, reduction="none"))
    golden.agrees(loss, "loss", 5e-6)
    loss.backward()
    golden.gradients_agree({f"predictor.{key}": p for key, p in golden.read.predictor.named_parameters()})


# ------------------------------------------------------------------------------------- what needs no golden numbers


FLAGS = {
    "modality": "NLP",
    "model_name": "ebt",
    "embedding_dim": 8,
    "num_transformer_blocks": 1,
    "multiheaded_attention_heads": 2,
    "ebt_type": "time_embed",
    "mcmc_num_steps": 2,
    "mcmc_step_size": 500.0,
    "mcmc_step_size_learnable": True,
}


def checkpoint() -> dict[str, torch.Tensor]:
    """A checkpoint of the reference's, by its key names."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layer = "transformer.layers.0"
    state = {f"{layer}.attention.w{part}.weight": draw(8, 8) for part in "qkvo"}
    state |= {f"{layer}.feed_forward.w{part}.weight": draw(8, 8) for part in "123"}
    state |= {f"{layer}.{part}_norm.weight": draw(8) for part in ("attention", "ffn")}
    state |= {"transformer.norm.weight": draw(8), "transformer.final_layer.weight": draw(1, 8)}
    state |= {"transformer.time_embeddings.weight": draw(2, 8), "alpha": torch.tensor(500.0)}
    state |= {"embeddings.weight": draw(11, 8), "vocab_to_embed.weight": draw(8, 11)}
    return state | {"langevin_dynamics_noise_std": torch.tensor(0.0)}


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.", "model._orig_mod."])
def test_prefixes_are_dropped(prefix, tmp_path):
    state = {prefix + key: value for key, value in checkpoint().items()}
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": state, "hyper_parameters": FLAGS}, tmp_path / "last.ckpt")
    ids, y = torch.tensor([[1, 2, 3]]), torch.rand(1, 3, 11)
    expected = from_ebt_checkpoint(checkpoint(), FLAGS).energy.given(ids)(y)
    for found in (
        from_ebt_checkpoint(state, FLAGS),
        from_ebt_checkpoint(tmp_path / "weights.safetensors", FLAGS),
        from_ebt_checkpoint(tmp_path / "last.ckpt"),
    ):
        assert torch.equal(found.energy.given(ids)(y), expected)
        assert found.names["energy.blocks.0.qkv.weight"][0] == "transformer.layers.0.attention.wq.weight"
        assert found.names["sampler.step_size"] == "alpha"


def test_wrong_keys_are_all_named():
    state = checkpoint()
    del state["transformer.norm.weight"]
    state["transformer.extra"] = torch.zeros(1)
    state["transformer.layers.0.attention.wk.weight"] = torch.zeros(8, 7)
    with pytest.raises(ValueError, match="missing transformer.norm.weight") as caught:
        from_ebt_checkpoint(state, FLAGS)
    assert "unexpected transformer.extra" in str(caught.value)
    assert "transformer.layers.0.attention.wk.weight has shape (8, 7) instead of (8, 8)" in str(caught.value)


class Unsafe:
    """What a pickle may hold: reading it would run code."""

    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": checkpoint(), "more": Unsafe()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="without running code"):
        from_ebt_checkpoint(tmp_path / "bad.ckpt", FLAGS)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ebt_norm": "dyt"}, r"hparams\['ebt_norm'\] is 'dyt', which has no counterpart here; it can be 'rms'"),
        ({"ebt_type": "tim_embed"}, "did you mean 'time_embed'"),
        ({"model_name": "dit"}, "kind='text_dit' cannot be read"),
        ({"embedding_dim": 0}, "neither model_size nor embedding_dim"),
        ({"infer_ebt_advanced": True, "infer_energy_sampling_technique": "best"}, "Known: min, max, max_gap"),
    ],
)
def test_flags_without_a_counterpart_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        from_ebt_checkpoint(checkpoint(), {**FLAGS, **flags})


def test_the_second_stage_and_inference_flags_are_read():
    second = {"truncate_mcmc": True, "randomize_mcmc_num_steps": 2, "randomize_mcmc_num_steps_min": 2}
    second |= {"mcmc_replay_buffer": True, "randomize_mcmc_step_size_scale": 2.0, "langevin_dynamics_noise": 3.0}
    think = {"infer_ebt_advanced": True, "infer_ebt_override_alpha": 0.5, "infer_generated_samples": 3}
    think |= {"infer_ebt_num_steps": 4, "infer_energy_sampling_technique": "max_gap", "infer_accept_lower_energies": True}
    state = checkpoint() | {"langevin_dynamics_noise_std": torch.tensor(3.0)}
    read = from_ebt_checkpoint(state, {**FLAGS, **second, **think})
    assert read.sampler.steps == (2, 3)
    assert (read.sampler.step_scale, read.sampler.noise_std) == (2.0, 3.0)
    assert (read.objective.reduce, read.objective.unroll, read.objective.sampler.join) == ("last", "last", 0.5)
    thinker = read.predictor
    assert (thinker.candidates, thinker.select, thinker.sampler.sampler.step_size) == (3, "max-drop", 250.0)
    assert thinker.sampler.sampler.steps == 4


def test_damaged_weights_are_named(tmp_path):
    file = tmp_path / "weights.safetensors"
    for content, reason in ((b"x" * 99, "cannot be read as safetensors"), (None, "holds weights that are NaN: a")):
        if content is None:
            save_file({"a": torch.tensor([1.0, float("nan")])}, file)
        else:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"weights\.safetensors {reason}"):
            from_ebt_checkpoint(file)
