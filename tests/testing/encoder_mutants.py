"""Test subjects for `check_encoder`: right encoders as plugins' authors write them, and ones with one planted mistake each.

`CORRECT` maps a name to a function of the check's (arguments, keywords). `MUTANTS` maps a name to such a function and a
pattern (case does not count) that a message which is right about the mistake matches.
"""

import random

import torch
from torch import nn
from torch.nn import functional as F

from ebm.encoders import Autoencoder, Encoder, Pixels
from ebm.randomness import own_randomness

CORRECT, MUTANTS = {}, {}


def correct(name, **keywords):
    def take(made):
        CORRECT[name] = lambda: ((made,), keywords)
        return made

    return take


def mutant(name, words, **keywords):
    def take(made):
        MUTANTS[name] = (lambda: ((made,), keywords)), words
        return made

    return take


# ------------------------------------------------------------------------------------------------------------------ right


correct("pixels")(lambda: Pixels(size=8, patch=2))
correct("an autoencoder")(lambda: Autoencoder(size=16, channels=4, downsample=8, width=4, steps=3))
correct("frames of one's own", frames=torch.arange(8 * 3 * 64).reshape(8, 3, 8, 8).to(torch.uint8))(lambda: Pixels(size=8))


@correct("means of colours")
class Colours(Encoder):
    def __init__(self):
        super().__init__(6, 3)

    def _encode(self, pixels):
        return pixels.mean((2, 3))


@correct("a random projection")
class Projected(Encoder):
    def __init__(self, size=8, features=5):
        super().__init__(size, features)
        with own_randomness(0):
            self.project = nn.Linear(3 * size**2, features)
        self.requires_grad_(False)

    def _encode(self, pixels):
        return self.project(pixels.flatten(1))


@correct("a network with dropout and batch norm")
class Network(Projected):
    def __init__(self):
        super().__init__()
        with own_randomness(1):
            self.net = nn.Sequential(nn.Conv2d(3, 5, 4, stride=2), nn.BatchNorm2d(5), nn.SiLU(), nn.Dropout(), nn.Flatten())
            self.head = nn.Linear(45, 5)
        self.requires_grad_(False)

    def _encode(self, pixels):
        return self.head(self.net(pixels))


@correct("half a picture, in half precision")
class Halved(Encoder):
    decodes = True

    def __init__(self):
        super().__init__(4, 24)

    def _encode(self, pixels):
        return pixels[..., :2].flatten(1).to(torch.bfloat16)

    def _decode(self, features):
        return F.interpolate(features.unflatten(1, (3, 4, 2)), (4, 4))


@correct("principal components")
class Components(Encoder):
    learns = decodes = True

    def __init__(self):
        super().__init__(8, 4)
        self.register_buffer("axes", torch.zeros(4, 192))
        self.register_buffer("mean", torch.zeros(192))

    def learn(self, frames, *, seed=0, progress=False):
        self._check(frames)
        rows = self.rows(frames)
        self.mean.copy_(rows.mean(0))
        self.axes.copy_(torch.linalg.svd(rows - self.mean, full_matrices=False)[2][:4])
        return {"loss": (rows - self._decode(self._encode(rows)).flatten(1)).square().mean().item()}

    def rows(self, frames):
        return frames.flatten(1) / 127.5 - 1

    def _encode(self, pixels):
        if not self.axes.any():
            raise ValueError("these components have not learned yet: call learn(frames)")
        return (pixels.flatten(1) - self.mean) @ self.axes.T

    def _decode(self, features):
        return (features @ self.axes + self.mean).unflatten(1, (3, 8, 8))


@correct("an encode of its own")
class Own(Colours):
    @torch.no_grad()
    def encode(self, frames):
        if frames.dtype != torch.uint8 or frames.shape[1:] != (3, 6, 6):
            raise ValueError("frames are uint8 (n, 3, 6, 6)")
        return frames.float().mean((2, 3))


# ------------------------------------------------------------------------------------------------- features and refusals


@mutant("no call of super().__init__", r"cannot be|can be built|super|AttributeError|__init__")
class Bare(Encoder):
    def __init__(self):
        nn.Module.__init__(self)

    def _encode(self, pixels):
        return pixels.flatten(1)


mutant("an instance in place of a factory", "factory")(Pixels(size=8))
mutant("a plain network", "subclass|Encoder")(lambda: nn.Flatten())


@mutant("features are not flat", r"features|shape|flatten")
class Square(Colours):
    def _encode(self, pixels):
        return pixels


@mutant("another number of features than it says", r"features is 3")
class Miscounted(Colours):
    def _encode(self, pixels):
        return pixels.flatten(1)


@mutant("a batch of one loses its axis", r"1 frames|dimension|squeeze|shape")
class Squeezed(Colours):
    def _encode(self, pixels):
        return pixels.mean((2, 3)).squeeze()


@mutant("the logarithm of black", r"finite")
class Logarithm(Colours):
    def _encode(self, pixels):
        return ((pixels + 1) / 2).mean((2, 3)).log()


@mutant("features that say nothing", r"same features|look")
class Blind(Colours):
    def _encode(self, pixels):
        return torch.ones(len(pixels), 3)


@mutant("features in double precision", r"float64|dtype")
class Double(Colours):
    @torch.no_grad()
    def encode(self, frames):
        self._check(frames)
        return frames.double().mean((2, 3))


@mutant("frames of any size are taken", r"another size|refus|ValueError")
class Anything(Colours):
    def _check(self, frames):
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError("frames are uint8 (n, 3, height, width)")


@mutant("floating frames are taken", r"floating")
class Floating(Own):
    def encode(self, frames):
        if frames.ndim != 4 or frames.shape[1:] != (3, 6, 6):
            raise ValueError("frames are (n, 3, 6, 6)")
        return frames.float().mean((2, 3))


# ------------------------------------------------------------------------------------------- functions that change nothing


@mutant("statistics of the batch", r"other frames|alone|batch|order")
class Centred(Colours):
    def _encode(self, pixels):
        return (pixels - pixels.mean(0)).mean((2, 3))


@mutant("each frame beside the one before", r"alone|order|batch")
class Neighbours(Colours):
    def _encode(self, pixels):
        colours = pixels.mean((2, 3))
        return colours - 0.1 * colours.roll(1, 0)


@mutant("batch norm in train mode", r"train|batch norm|mode|changed")
class Trains(Network):
    @torch.no_grad()
    def encode(self, frames):
        self._check(frames)
        return self._encode(frames / 127.5 - 1) if len(frames) else torch.empty(0, 5)


@mutant("it stays in train mode", r"mode|train")
class Stays(Network):
    def _encode(self, pixels):
        found = super()._encode(pixels)
        self.head.train(not self.head.training)
        return found


@mutant("a sample in place of the mean", r"noise|sample|draw|generator")
class Sampled(Projected):
    def _encode(self, pixels):
        mean = super()._encode(pixels)
        return mean + 0.1 * torch.randn_like(mean)


@mutant("noise of Python's own generator", r"noise|draw|generator")
class Jittered(Projected):
    def _encode(self, pixels):
        return super()._encode(pixels) + random.random()


@mutant("frames are scaled in place", r"in place")
class InPlace(Own):
    @torch.no_grad()
    def encode(self, frames):
        found = super().encode(frames)
        frames //= 2
        return found


@mutant("the last features are remembered", r"kept|remember|again|call|changed")
class Remembers(Projected):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def _encode(self, pixels):
        found = super()._encode(pixels) - self.mean
        self.mean += 0.1 * found.mean(0)
        return found


@mutant("calls are counted", r"attribute|count|changed|self")
class Counts(Projected):
    calls = 0

    def _encode(self, pixels):
        self.calls += 1
        return super()._encode(pixels)


@mutant("gradients stay disabled", r"gradients are disabled|set_grad_enabled")
class Disables(Own):
    def encode(self, frames):
        found = super().encode(frames)
        torch.set_grad_enabled(False)
        return found


@mutant("parameters that train", r"requires? grad|frozen")
class Thawed(Projected):
    def __init__(self):
        super().__init__()
        self.requires_grad_(True)


@mutant("features with a graph", r"graph|no_grad|frozen")
class Graph(Projected):
    def encode(self, frames):
        self._check(frames)
        return self._encode((frames / 127.5 - 1).requires_grad_())


@mutant("pixels of another shape in memory", r"memory|view|channels_last|contiguous")
class Viewed(Own):
    @torch.no_grad()
    def encode(self, frames):
        super().encode(frames)
        return frames.as_strided((len(frames), 3), (108, 36)).float()


# ----------------------------------------------------------------------------------------- built, taught, saved and moved


@mutant("weights that nobody fixes", r"built anew|own_randomness")
class Drawn(Encoder):
    def __init__(self):
        super().__init__(8, 5)
        self.project = nn.Linear(192, 5).requires_grad_(False)

    def _encode(self, pixels):
        return self.project(pixels.flatten(1))


@mutant("what it learned is not saved", r"register_buffer|state|saved|loaded")
class Unsaved(Components):
    def __init__(self):
        super().__init__()
        del self.axes
        self.axes = torch.zeros(4, 192)


@mutant("that it has learned is not saved", r"register_buffer|state|saved|loaded")
class Forgets(Components):
    ready = False

    def learn(self, frames, *, seed=0, progress=False):
        self.ready = True
        return super().learn(frames, seed=seed)

    def _encode(self, pixels):
        if not self.ready:
            raise ValueError("learn first")
        return super()._encode(pixels)


@mutant("a state that is no tensor", r"state|saved|tensor")
class Extra(Projected):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


@mutant("it learns from the global generator", r"seed|draw|generator")
class Unseeded(Components):
    def learn(self, frames, *, seed=0, progress=False):
        found = super().learn(frames)
        self.axes += 0.01 * torch.randn(4, 192)
        return found


@mutant("it learns something else every time", r"seed|draw|generator")
class Unlike(Components):
    def learn(self, frames, *, seed=0, progress=False):
        found = super().learn(frames)
        noise = torch.Generator()
        noise.seed()
        self.axes += 0.01 * torch.randn(4, 192, generator=noise)
        return found


@mutant("it learns only where gradients are on", r"no_grad|enable_grad")
class Descends(Components):
    def learn(self, frames, *, seed=0, progress=False):
        axes = nn.Parameter(torch.linspace(-0.1, 0.1, 4 * 192).view(4, 192))
        rows = self.rows(frames)
        loss = (rows - rows @ axes.T @ axes).square().mean()
        if loss.requires_grad:
            loss.backward()
            axes.data -= 0.1 * axes.grad
        self.axes.copy_(axes.data)
        return {"loss": loss.item()}


@mutant("it encodes before it has learned", r"before it has learned")
class Hasty(Components):
    def _encode(self, pixels):
        return (pixels.flatten(1) - self.mean) @ self.axes.T + pixels.flatten(1)[:, :4]


@mutant("it forgets to say that it learns", r"learns")
class Silent(Components):
    learns = False

    def _encode(self, pixels):
        return pixels.flatten(1)[:, :4] - pixels.flatten(1) @ self.axes.T


@mutant("its loss is not finite", r"learn returned|finite")
class Infinite(Components):
    def learn(self, frames, *, seed=0, progress=False):
        super().learn(frames)
        return {"loss": float("nan")}


@mutant("it teaches in place", r"in place")
class Spoils(Components):
    def learn(self, frames, *, seed=0, progress=False):
        found = super().learn(frames)
        frames.zero_()
        return found


@mutant("a constant that stays on the CPU", r"device|register_buffer")
class Rooted(Projected):
    def __init__(self):
        super().__init__()
        self.mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)

    def _encode(self, pixels):
        return super()._encode(pixels - self.mean)


# --------------------------------------------------------------------------------------------------------------- decoding


@mutant("it forgets to say that it decodes", r"decodes")
class Shy(Halved):
    decodes = False


@mutant("it says that it decodes, and cannot", r"NotImplementedError|decode|raises")
class Boasts(Colours):
    decodes = True


@mutant("decoded pixels from 0 to 1 at once", r"below 0.5|\[-1, 1\]")
class Bright(Halved):
    def _decode(self, features):
        return (super()._decode(features) + 1) / 2


@mutant("decoded pixels are not clamped", r"reach from|clamp")
class Unclamped(Halved):
    @torch.no_grad()
    def decode(self, features):
        if features.shape[-1] != self.features:
            raise ValueError("another length")
        found = self._decode(features.reshape(-1, 24))
        return ((found + 1) / 2).reshape(*features.shape[:-1], 3, 4, 4)


@mutant("only one axis is decoded", r"axis|axes|shape|expanded|size|dimension|raises")
class OneAxis(Halved):
    @torch.no_grad()
    def decode(self, features):
        if features.shape[-1] != self.features:
            raise ValueError("another length")
        return ((self._decode(features) + 1) / 2).clamp(0, 1)


@mutant("decoding looks at the batch", r"alone|batch|order")
class Levels(Halved):
    def _decode(self, features):
        return super()._decode(features / features.abs().amax().clamp(min=0.1))


@mutant("decoding adds grain", r"noise|draw|generator")
class Grain(Halved):
    def _decode(self, features):
        return super()._decode(features + 0.1 * torch.randn_like(features))


@mutant("features of another length are decoded", r"another length")
class Pads(Halved):
    def decode(self, features):
        return super().decode(F.pad(features, (0, 24 - features.shape[-1])))
