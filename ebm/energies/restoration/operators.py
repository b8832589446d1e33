"""What pictures are seen by: operators that hide, blur, shrink or sample them, and what others bring."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

LINEAR = 1e-4  # the share of an operator's values that may be rounding: 8 bits' is 25 times as much


class Linear(nn.Module):
    """Knows any linear operator A of pictures: how it is applied, and its transpose.

    A is a function or a module of pictures (rows, C, H, W), such as a transform of torchvision
    (GaussianBlur of one sigma, Resize), or has methods `A` and, where it knows it, `A_adjoint`, as
    the physics of deepinv. Else the transpose is its derivative's. The first picture that is solved
    for is asked on random pictures whether A is linear.

    Arguments:
        operator: A.

    Raises:
        ValueError: at the call of `transposed`, A is not linear, draws numbers anew at each call, or
            its `A_adjoint` is not its transpose.

    >>> half = Linear(lambda x: x[..., ::2] / 2)
    >>> half.transposed(torch.zeros(1, 1, 1, 4))(torch.ones(1, 1, 1, 2))
    tensor([[[[0.5000, 0.0000, 0.5000, 0.0000]]]])
    """

    def __init__(self, operator: Any) -> None:
        super().__init__()
        if not callable(operator) and not callable(getattr(operator, "A", None)):
            raise ValueError(f"operator={operator!r}: pass a function of pictures, or what has one as its method A")
        self.operator, self.checked = operator, False

    def forward(self, x: Tensor) -> Tensor:
        applied = getattr(self.operator, "A", None)  # a physics of deepinv adds noise where it is called
        return applied(x) if callable(applied) else self.operator(x)

    def transposed(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Finds Aᵀ, from what A makes back to pictures of the shape of `like` (rows, C, H, W)."""
        if not self.checked:
            self._check(like)
            self.checked = True
        return self._transposed(like)

    def _transposed(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        if callable(adjoint := getattr(self.operator, "A_adjoint", None)):
            return adjoint
        found: Any = torch.func.vjp(self.forward, like)
        return lambda seen: found[1](seen)[0]

    def _check(self, like: Tensor) -> None:
        draws = Generator().manual_seed(0)
        one, two = (torch.randn(like.shape[-3:], generator=draws).to(like)[None] for _ in range(2))
        seen, again, other, both = (self(x) for x in (one, one, two, 3 * one - two))
        name, size = _name(self.operator), torch.linalg.vector_norm(both)
        least = max(LINEAR, 20 * torch.finfo(like.dtype).eps) * size
        if torch.linalg.vector_norm(seen - again) > least:
            raise ValueError(
                f"the operator {name} makes something else at each call: pass one that draws nothing, such as a blur"
            )
        if not torch.linalg.vector_norm(both - (3 * seen - other)) <= least:  # nor where it is NaN
            what = f"the operator {name} is not linear: A(3x − y) is not 3 A x − A y"
            raise ValueError(f"{what}; pass one that neither rounds, cuts off nor adds, or descend the sum by GradientDescent")
        there, back = torch.randn(seen.shape, generator=draws).to(seen), self._transposed(one)
        gap = (seen * there).sum() - (one * back(there)).sum()
        if not gap.abs() <= max(LINEAR, 20 * torch.finfo(like.dtype).eps) * seen.norm() * there.norm():
            raise ValueError(f"A_adjoint of the operator {name} is not the transpose of its A: leave it out, or mend it")


def _name(operator: Any) -> str:
    return getattr(operator, "__name__", type(operator).__name__)


class Masked(nn.Module):
    """Keeps the pixels of pictures (rows, C, H, W) where a mask (H, W) is true, and makes others 0.

    >>> Masked(torch.tensor([[True, False]]))(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 0.]]]])
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept.bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept.to(x.dtype)


class Blurred(nn.Module):
    """Blurs pictures (rows, C, H, W) by a kernel (k, k) of odd side, mirrored at the edge, and keeps
    every n-th pixel of each side.

    Arguments:
        kernel: (k, k), of odd sides.
        every: n.

    Raises:
        ValueError: a side of the kernel is even, or n is not positive; at the call, the kernel
            reaches further than the picture does, so that there is nothing to mirror.

    >>> Blurred(torch.ones(3, 3) / 9, every=2)(torch.ones(1, 1, 5, 6)).shape
    torch.Size([1, 1, 3, 3])
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, every: int = 1) -> None:
        super().__init__()
        if kernel.ndim != 2 or any(size % 2 == 0 for size in kernel.shape) or every < 1:
            raise ValueError(f"kernel {tuple(kernel.shape)}, every={every}: pass odd sides, and a number of at least 1")
        self.every = every
        self.register_buffer("kernel", kernel, persistent=False)
        down, sizes, across = torch.linalg.svd(kernel.double())
        self.apart: tuple[list[float], list[float]] | None = None
        if not bool((sizes[1:] > 1e-7 * sizes[0]).any()):  # as a Gaussian: down and then across is the same, and faster
            self.apart = (down[:, 0] * sizes[0]).tolist(), across[0].tolist()

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (size // 2 for size in self.kernel.shape)
        if rows >= x.shape[-2] or columns >= x.shape[-1]:
            sizes = f"a kernel of {tuple(self.kernel.shape)} reaches beyond pictures of {tuple(x.shape[-2:])}"
            raise ValueError(f"{sizes}: pass a smaller blur, or a larger picture")
        x = F.pad(x, (columns, columns, rows, rows), mode="reflect")
        if self.apart is not None:
            down, across = self.apart
            return _slid(_slid(x.mT, down, self.every).mT, across, self.every)
        kernel = self.kernel.to(x)[None, None].expand(x.shape[1], 1, *self.kernel.shape)
        return F.conv2d(x, kernel, stride=self.every, groups=x.shape[1])


def _slid(x: Tensor, weights: list[float], every: int) -> Tensor:
    """Convolves the last axis by shifting it: torch's convolutions of one channel are slow backwards."""
    count = x.shape[-1] - len(weights) + 1
    found = weights[0] * x[..., :count:every]
    for shift, weight in enumerate(weights[1:], 1):
        found = torch.add(found, x[..., shift : shift + count : every], alpha=weight)
    return found


class Shrunk(nn.Module):
    """Makes pictures (rows, C, H, W) n times smaller by the bicubic filter, widened against aliasing.

    It is what super-resolution is judged by in the field: MATLAB's `imresize`, Pillow's BICUBIC.

    Arguments:
        times: n, a whole number that divides both sides.

    Raises:
        ValueError: n is not at least 1; at the call, it does not divide a side.

    >>> Shrunk(2)(torch.ones(1, 1, 4, 6)).shape
    torch.Size([1, 1, 2, 3])
    """

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        if times < 1:
            raise ValueError(f"times={times}: pass a whole number of at least 1")
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.times or width % self.times:
            raise ValueError(f"pictures of {height} x {width} are not {self.times} times another size: crop them to one")
        size = (height // self.times, width // self.times)
        return F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)


class Sampled(nn.Module):
    """Takes few measurements of pictures (rows, C, H, W): random signs, a cosine transform, random rows of it.

        b = S C D x,

    D flips the sign of each pixel at random, C is the orthonormal two-dimensional DCT-II (by the fast
    Fourier transform), and S keeps some of its coefficients. So A Aᵀ = 1, and every measurement says
    something of every pixel. Source: compressed sensing by structurally random matrices (Do, Gan,
    Nguyen and Tran, 2012), equation 1; the transform by an FFT: Makhoul, 1980.

    Arguments:
        signs: D (H, W), of 1 and −1.
        kept: S (H, W), true where a coefficient is kept.

    Raises:
        ValueError: signs and kept differ in shape, or nothing is kept.

    >>> operator = Sampled.drawn((8, 8), 0.25, generator=torch.Generator().manual_seed(0))
    >>> operator(torch.ones(2, 1, 8, 8)).shape
    torch.Size([2, 1, 16])
    """

    signs: Tensor
    kept: Tensor

    def __init__(self, signs: Tensor, kept: Tensor) -> None:
        super().__init__()
        if signs.ndim != 2 or signs.shape != kept.shape or not bool(kept.any()):
            raise ValueError(f"signs {tuple(signs.shape)}, kept {tuple(kept.shape)}: pass two of (H, W), and keep something")
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("kept", kept.bool(), persistent=False)

    @classmethod
    def drawn(cls, size: tuple[int, int], share: float, *, generator: Generator | None = None) -> Sampled:
        """Draws the signs, and which share of the coefficients is kept, for pictures of a size (H, W)."""
        count = round(share * math.prod(size))
        if not 0 < count <= math.prod(size):
            raise ValueError(f"share={share}: pass a number above 0, and at most 1")
        signs = 2 * torch.randint(2, size, generator=generator) - 1
        kept = torch.randperm(math.prod(size), generator=generator).reshape(size) < count
        return cls(signs, kept)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.signs.shape:
            raise ValueError(f"pictures of {tuple(x.shape[-2:])} for signs of {tuple(self.signs.shape)}: pass one size")
        return cosines(cosines(x * self.signs.to(x)).mT).mT[..., self.kept]


def cosines(x: Tensor) -> Tensor:
    """Transforms the last axis by the orthonormal DCT-II: even entries, then odd ones backwards, to an FFT.

    >>> cosines(torch.ones(4))
    tensor([2., 0., 0., 0.])
    """
    size = x.shape[-1]
    turn = torch.exp(-0.5j * math.pi / size * torch.arange(size, dtype=x.dtype, device=x.device))
    found = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)) * turn
    first = torch.full((size,), math.sqrt(2 / size), dtype=x.dtype, device=x.device)
    first[0] = math.sqrt(1 / size)
    return found.real * first


def gaussian(sigma: float) -> Tensor:
    """Makes a Gaussian kernel (k, k) of a deviation in pixels, cut off at four, that adds up to 1.

    Raises:
        ValueError: the deviation is not positive.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"gaussian({sigma}): pass a positive deviation, in pixels")
    reach = max(1, math.ceil(4 * sigma))
    line = (-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)).exp()
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()
