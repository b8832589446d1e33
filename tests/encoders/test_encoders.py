"""Every registered encoder keeps the laws of the kit; and what each adds to them."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ebm
from ebm.encoders import Autoencoder, KLAutoencoder, Pixels, TimmEncoder
from ebm.registry import components
from ebm.testing import check_encoder

LAW = settings(max_examples=15, deadline=None, derandomize=True)
TIMM = "test_resnet"  # timm's own tiny model


def frames_of(n: int, size: int, seed: int = 0):
    """Draws smooth frames, with something to learn."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (255 * smooth).round().to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Writes files of random weights: timm's with a classifier, and a folder of diffusers' where it is installed."""
    timm = pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model(TIMM, num_classes=7).state_dict(), folder / "timm.pth")
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            return folder
        block = ("DownEncoderBlock2D", "UpDecoderBlock2D")
        sides = {"down_block_types": block[:1] * 3, "up_block_types": block[1:] * 3, "block_out_channels": (8, 8, 8)}
        AutoencoderKL(**sides, norm_num_groups=4, latent_channels=2, sample_size=16).save_pretrained(folder / "kl")
    return folder


def maker(name: str, folder):
    """Makes the factory of a registered encoder, small; a name without keywords here is built by its defaults."""
    if name == "autoencoder-kl":
        pytest.importorskip("diffusers")
    keywords = {
        "pixels": {"size": 16, "patch": 2, "pool": 2},
        "autoencoder": {"size": 16, "channels": 5, "downsample": 8, "width": 4, "steps": 3},
        "timm": {"model": TIMM, "weights": str(folder / "timm.pth"), "size": 32},
        "autoencoder-kl": {"model": str(folder / "kl"), "size": 16},
    }
    return lambda: ebm.build("encoder", name, **keywords.get(name, {}))


# -------------------------------------------------------------------------------------------------------- all encoders


@pytest.mark.parametrize("name", sorted(components("encoder")))
def test_it_keeps_the_laws(name, weights):
    check_encoder(maker(name, weights))


def test_what_is_refused_is_told(weights):
    encoder, frames = Pixels(16, 2, 2), frames_of(2, 16)
    for bad in (frames.float(), frames[0], frames[:, :1], frames[..., 1:], frames[None]):
        with pytest.raises(ValueError, match=r"takes torch\.uint8, \(n, 3, "):
            encoder.encode(bad)
    with pytest.raises(ValueError, match=rf"decodes \(\*more, {encoder.features}\)"):
        encoder.decode(encoder.encode(frames)[:, 1:])
    with pytest.raises(ValueError, match="cannot decode features .*: choose one of autoencoder, autoencoder-kl, pixels"):
        maker("timm", weights)().decode(torch.zeros(1, 5))


# -------------------------------------------------------------------------------------------------------------- pixels


@LAW
@given(patches=st.integers(1, 4), patch=st.integers(1, 3), pool=st.integers(1, 3), seed=st.integers(0, 9))
def test_pixels_decode_to_the_averages_they_are(patches, patch, pool, seed):
    encoder, side = Pixels(patches * patch * pool, patch, pool), patches * patch * pool
    frames = frames_of(2, side, seed)
    averages = nn.functional.avg_pool2d(frames / 255, pool)
    expected = averages.repeat_interleave(pool, 2).repeat_interleave(pool, 3)
    features = encoder.encode(frames)
    torch.testing.assert_close(encoder.decode(features), expected)
    corner = averages[:, :, :patch, :patch].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(features[:, : corner.shape[1]], 2 * corner - 1)


@pytest.mark.parametrize("keywords", [{"size": 0}, {"patch": 3}, {"pool": 0}, {"patch": 8, "pool": 8}])
def test_pixels_need_a_size_that_patches_divide(keywords):
    with pytest.raises(ValueError, match=r"^Pixels\(size=.*: choose a size that patch \* pool divides$"):
        Pixels(**keywords)


# --------------------------------------------------------------------------------------------------------- autoencoder


def small(**keywords) -> Autoencoder:
    return Autoencoder(**{"size": 16, "channels": 6, "downsample": 8, "width": 8, "steps": 3} | keywords)


def test_learning_is_a_function_of_frames_and_seed():
    frames, state = frames_of(12, 16), torch.get_rng_state()
    first, second, other = small(), small(), small()
    results = [first.learn(frames, seed=3), second.learn(frames_of(5, 16)), other.learn(frames, seed=4)]
    again = second.learn(frames, seed=3)  # anew, whatever it learned before
    assert again == results[0] != results[2]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert torch.equal(state, torch.get_rng_state())


def test_learning_improves_on_what_is_linear():
    edges = torch.arange(16)[None] >= torch.arange(16)[:, None]  # which components blur
    frames = (255 * edges.view(16, 1, 1, 16).expand(-1, 3, 16, -1)).to(torch.uint8)
    error = []
    for steps in (1, 100):
        encoder = small(channels=2, steps=steps, lr=3e-3)
        assert encoder.learn(frames)["psnr"] > 5
        error.append((encoder.decode(encoder.encode(frames)) - frames / 255).square().mean().item())
    assert error[1] < 0.6 * error[0]


def test_before_steps_it_reconstructs_by_principal_components():
    frames = frames_of(40, 8)
    encoder = small(size=8, channels=192, steps=1, lr=1e-12)
    encoder.learn(frames)  # all components of a patch, and next to no step
    patches = frames.flatten(1) / 255
    centred = (patches.mean(0).view(3, 8, 8) - patches.mean(0).view(3, -1).mean(1).view(3, 1, 1)).abs().max()
    assert (encoder.decode(encoder.encode(frames)) - frames / 255).abs().max() < centred + 1e-3


def test_what_has_not_learned_says_so():
    encoder = small()
    for call in (lambda: encoder.encode(frames_of(2, 16)), lambda: encoder.decode(torch.zeros(1, encoder.features))):
        with pytest.raises(ValueError, match=r"has not learned yet: call learn\(frames\)"):
            call()
    with pytest.raises(ValueError, match="0 frames"):
        encoder.learn(frames_of(0, 16))
    with pytest.raises(ValueError, match=r"takes torch\.uint8"):
        encoder.learn(frames_of(2, 8))
    other = small()
    other.learn(frames_of(4, 16))
    encoder.load_state_dict(other.state_dict())
    assert encoder.encode(frames_of(2, 16)).shape == (2, 24)


def test_a_loss_that_is_not_finite_stops_it_unlearned_and_frozen():
    encoder = small(steps=60, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"at step \d+: lower lr=1e\+30"):
        encoder.learn(frames_of(4, 16))
    assert not encoder.learned
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize(
    "keywords",
    [
        {"downsample": 2},
        {"downsample": 12, "size": 24},
        {"downsample": 0},
        {"size": 20},
        {"size": 0},
        {"channels": 0},
        {"channels": 193},
        {"width": 0},
        {"steps": 0},
        {"batch_size": 0},
        {"lr": 0.0},
    ],
)
def test_an_autoencoder_of_no_use_is_refused(keywords):
    with pytest.raises(ValueError, match=r"^Autoencoder\(.*(choose a downsample|all are positive)"):
        small(**keywords)


@pytest.mark.parametrize("downsample", [4, 8, 16])
def test_features_are_counted(downsample):
    encoder = small(size=32, channels=3, downsample=downsample, steps=1)
    loss = encoder.learn(frames_of(4, 32))
    assert encoder.encode(frames_of(1, 32)).shape == (1, 3 * (32 // downsample) ** 2)
    assert loss["psnr"] == pytest.approx(10 * math.log10(4 / loss["loss"]))


# ---------------------------------------------------------------------------------------------------------------- timm


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Makes a hub that does not answer, and an empty cache of it."""

    def refuse(url):
        raise OSError("nobody answers")

    monkeypatch.setattr("ebm.encoders.base.reachable", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def test_timm_normalises_and_pools(weights):
    timm = pytest.importorskip("timm")
    encoder = TimmEncoder(TIMM, str(weights / "timm.pth"), 32)
    network = timm.create_model(TIMM, num_classes=7, checkpoint_path=str(weights / "timm.pth")).eval()
    frames, config = frames_of(2, 32), network.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((frames / 255 - mean) / std), pre_logits=True)
    torch.testing.assert_close(encoder.encode(frames), expected, atol=1e-4, rtol=1e-4)
    assert TimmEncoder(TIMM, str(weights / "timm.pth")).size == config["input_size"][-1]


def test_a_transformer_takes_another_size(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_vit", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    encoder = TimmEncoder("test_vit", str(tmp_path / "vit.pth"), 64)
    assert encoder.encode(frames_of(2, 64)).shape == (2, network.num_features)
    with pytest.raises(ValueError, match=r"^TimmEncoder\(model='test_vit', size=63\): "):
        TimmEncoder("test_vit", str(tmp_path / "vit.pth"), 63)


def test_a_hub_that_does_not_answer_is_said_at_once(no_hub):
    with pytest.raises(ValueError, match=r"timm's test_resnet cannot .* \(nobody answers\): `--task\.encoder\.use autoencoder`"):
        TimmEncoder(TIMM)


def test_without_the_hub_the_cache_is_looked_at(no_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"`--task\.encoder\.use autoencoder` needs no network; `weights` names a file"):
        TimmEncoder(TIMM)


def test_weights_in_the_cache_need_no_hub(no_hub, weights, monkeypatch):
    file = weights / "timm.pth"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: str(file))
    frames = frames_of(2, 32)
    assert torch.equal(TimmEncoder(TIMM, size=32).encode(frames), TimmEncoder(TIMM, str(file), 32).encode(frames))


def test_wrong_weights_are_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        TimmEncoder(TIMM, str(tmp_path / "none.pth"))
    (tmp_path / "odd.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read from"):
        TimmEncoder(TIMM, str(tmp_path / "odd.pth"))
    torch.save({"conv1.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"cannot be read from .*other.pth: .*size mismatch"):
        TimmEncoder("resnet10t", str(tmp_path / "other.pth"))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"lacks \d+ of ResNet's parameters, as "):
        TimmEncoder(TIMM, str(tmp_path / "other.pth"))


def test_an_unknown_model_names_near_ones(monkeypatch):
    with pytest.raises(ValueError, match="timm has no model 'resnet81': did you mean 'resnet18'"):
        TimmEncoder("resnet81")
    with pytest.raises(ValueError, match=r"TimmEncoder\(model='resnet18.nonesuch'"):
        TimmEncoder("resnet18.nonesuch")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm is not installed: pip install"):
        TimmEncoder()


# ------------------------------------------------------------------------------------------------------ autoencoder-kl


def test_latents_are_means(weights):
    diffusers = pytest.importorskip("diffusers")
    encoder = KLAutoencoder(str(weights / "kl"), 32)
    assert encoder.features == 2 * (32 // 4) ** 2
    network, frames = diffusers.AutoencoderKL.from_pretrained(weights / "kl"), frames_of(2, 32)
    with torch.no_grad():
        mean = network.encode(frames / 127.5 - 1).latent_dist.mean
        pixels = network.decode(mean).sample
    torch.testing.assert_close(encoder.encode(frames), mean.flatten(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.decode(mean.flatten(1)), ((pixels + 1) / 2).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_an_autoencoder_kl_that_cannot_be_had(weights, no_hub):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=r"cannot be read from the hub \(nobody answers\): `--task\.encoder\.use autoencoder`"):
        KLAutoencoder("nobody/nothing")
    with pytest.raises(ValueError, match="choose a size that 4 divides"):
        KLAutoencoder(str(weights / "kl"), 30)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        KLAutoencoder("./missing")
    with pytest.raises(ValueError, match="cannot be read from"):
        KLAutoencoder(str(weights))


def test_a_missing_diffusers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match="diffusers is not installed: pip install diffusers"):
        KLAutoencoder()
