"""Language models that exist as energies of sequences: any causal model of Hugging Face's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebm.interfaces import Batch, Energy, Prediction, eval_mode
from ebm.optional import reachable

HUB = "https://huggingface.co"


class Prompt(NamedTuple):
    """A prompt's embeddings (B, P, D), and where there is a token (B, P)."""

    x: Tensor
    there: Tensor


class CausalLM(Energy):
    """Reads a causal language model as an energy of sequences: E(x | prompt) = −log p(x | prompt).

        E(y | prompt) = −Σ_i ⟨y_i, log p(· | prompt, y_<i)⟩

    for y (*more, B, T, V): one-hot vectors of tokens, zeros where there is none
    (`ebm.decoding.sequences.one_hot`), or probabilities, whose embeddings are averaged, so that
    samplers over probability vectors move them. The context is ids (B, P), −1 where there is no
    token, in front; or None for the model's own beginning-of-text. Energies are (*more, B), in
    nats, and compose: `0.5 * CausalLM(model) + mine`. As a base it draws, too (`SequenceNCE`,
    `rerank`), and as a predictor it gives tokens' logits.

    Arguments:
        model: a transformers model, which is put into eval mode; the folder of one; or a hub name.
            Weights are read from safetensors, and no code that comes with them is run.

    Source: Autoregressive language models are secretly energy-based models (arXiv 2512.15605).

    Raises:
        ImportError: transformers is not installed: pip install 'ebm-toolkit[transformers]'.
        ValueError: the model cannot be loaded, is no causal model, or (at the call) ids are outside
            its vocabulary, or y has another shape.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> tiny = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    >>> energy = CausalLM(tiny)
    >>> candidates = torch.eye(11)[torch.tensor([[[3, 4, 5]], [[6, 7, 8]]])]    # two, for one prompt
    >>> energy.given(torch.tensor([[1, 2]]))(candidates).shape
    torch.Size([2, 1])
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        model = _opened(str(model)) if isinstance(model, str | Path) else model
        if not isinstance(model, nn.Module) or not hasattr(model, "get_input_embeddings"):
            raise ValueError(f"model is {type(model).__name__}: pass a causal model of transformers, a folder or a hub name")
        self.model = model
        head: Any = self.model.get_output_embeddings()
        if head is None or getattr(self.model.config, "is_encoder_decoder", False):
            raise ValueError(f"{type(model).__name__} predicts no next tokens: pass a causal model, such as GPT2LMHeadModel")
        self.model.eval()
        self.vocab_size = self.embedding.shape[0]
        if head.weight.shape[0] != self.vocab_size:
            raise ValueError(
                f"{type(self.model).__name__} embeds {self.vocab_size} tokens and predicts {head.weight.shape[0]}: resize them "
                f"alike"
            )
        self.places = "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def embedding(self) -> Tensor:
        """The input table (V, D)."""
        return self.model.get_input_embeddings().weight

    def encode(self, context: Any = None, level: int = -1) -> Prompt:
        if context is None:
            begin = getattr(self.model.config, "bos_token_id", None)
            if begin is None:
                raise ValueError("the model has no beginning-of-text: give a prompt of at least one token")
            context = torch.tensor([[begin]], device=self.embedding.device)
        if not isinstance(context, Tensor) or context.ndim != 2 or context.is_floating_point():
            found = f"{context.dtype} {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {found}: pass a prompt's ids (B, P), -1 in front where there is no token")
        if context.shape[1] == 0 or not bool((context[:, -1] >= 0).all()) or int(context.max()) >= self.vocab_size:
            raise ValueError(
                f"the context is {context.tolist()}: each row ends in a token, of ids from 0 to {self.vocab_size - 1}"
            )
        there = context >= 0
        return Prompt(self.model.get_input_embeddings()(context.clamp(min=0)), there)

    def forward(self, y: Tensor, code: Prompt | None = None) -> Tensor:
        """Maps y (*more, B, T, V) to −log p (*more, B), in nats."""
        code = self.encode() if code is None else code
        if y.ndim < 3 or y.shape[-1] != self.vocab_size or len(code.x) not in (1, y.shape[-3]):
            raise ValueError(
                f"y has shape {tuple(y.shape)}: pass (*more, {len(code.x)}, T, {self.vocab_size}), a vector over the vocabulary "
                f"for each token"
            )
        chains, count = y.shape[:-2], y.shape[-2]
        before = code.x.to(y.dtype).expand(*chains, *code.x.shape[1:])
        there = torch.cat([code.there.expand(*chains, -1), (y != 0).any(-1)[..., :-1]], -1)
        x = torch.cat([before, (y @ self.embedding)[..., :-1, :]], -2)
        logits = self._logits(x.flatten(0, -3), there.flatten(0, -2))[:, -count:]
        return -(y * logits.log_softmax(-1).view(y.shape)).sum((-2, -1))

    def _logits(self, x: Tensor, there: Tensor) -> Tensor:
        """Computes logits (n, L, V) of embeddings (n, L, D), by the kernel whose slopes can be differentiated again."""
        how: dict[str, Any] = {"inputs_embeds": x, "attention_mask": there.long(), "use_cache": False}
        if self.places:
            how["position_ids"] = (there.long().cumsum(-1) - 1).clamp(min=0)
        with sdpa_kernel(SDPBackend.MATH):
            return self.model(**how).logits

    def predict(self, batch: Batch, start: Any = None, *, generator: Generator | None = None) -> Prediction:
        """Predicts what follows each token of a context (B, S) of ids, which have nothing missing."""
        with torch.no_grad(), eval_mode(self):
            ids = batch.context
            return Prediction(
                self._logits(self.model.get_input_embeddings()(ids), torch.ones_like(ids, dtype=torch.bool)), None, 1
            )

    def write_on(self, prompt: Tensor, length: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Writes ids (B, length) behind prompts (B, P): `choose` maps logits (B, V) to tokens (B,)."""
        with torch.no_grad(), eval_mode(self):
            code = self.encode(prompt)
            x, there = code.x, code.there
            written: list[Tensor] = []
            for _ in range(length):
                token = choose(self._logits(x, there)[:, -1])
                written.append(token)
                x = torch.cat([x, self.model.get_input_embeddings()(token)[:, None]], 1)
                there = torch.cat([there, torch.ones_like(there[:, :1])], 1)
        return torch.stack(written, 1)


def _opened(name: str) -> Any:
    """Loads a causal model from a folder, or by its hub name."""
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ImportError("transformers is not installed: pip install 'ebm-toolkit[transformers]'") from error
    path = Path(name).expanduser()
    how: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
    if not path.exists():
        if name.startswith((".", "~", "/")) or name.count("/") > 1:
            raise ValueError(f"there is no folder {name}: pass that of a transformers model, or a hub name such as owner/name")
        try:
            reachable(HUB)
        except OSError:
            how["local_files_only"] = True  # what was downloaded before
    try:
        return AutoModelForCausalLM.from_pretrained(str(path) if path.exists() else name, **how)
    except Exception as error:  # transformers' own, of a dozen types
        reason = str(error).strip().partition("\n")[0]
        offline = ", and the hub does not answer" if how.get("local_files_only") else ""
        raise ValueError(
            f"the causal model {name!r} cannot be loaded ({reason}){offline}: pass a folder of config.json and "
            f"safetensors, or a model that you loaded"
        ) from error
