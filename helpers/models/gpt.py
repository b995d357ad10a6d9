"""A small language model of LLaMA's kind over bytes, the one that ships, and any causal LM of `transformers` behind it.

    tokens → embedding → blocks → RMSNorm → logits of the next token
    block: x + o(attention(norm(x))) with rotary positions, then x + down(silu(gate(norm(x))) · up(norm(x)))

Both kinds of model have `blocks`, `embed`, `run_block` and `logits`, and their blocks' parts have the names that
LLaMA's have in `transformers`: whatever quantizes one, quantizes the other.

Sources: H. Touvron et al., "LLaMA", arXiv 2302.13971, 2023; J. Su et al., "RoFormer" (rotary positions), 2021;
N. Shazeer, "GLU Variants Improve Transformer", 2020.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.data.subjects import load_subject
from helpers.data.text import VOCABULARY, windows
from helpers.lab.training import batches, fit

SUBSETS = (
    ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"),
    ("self_attn.o_proj",),
    ("mlp.up_proj", "mlp.gate_proj"),
    ("mlp.down_proj",),
)
"""The linear layers of a block, those with one common input together, in the order in which data passes them."""


class RotaryAttention(nn.Module):
    """Causal self-attention whose queries and keys are turned by an angle that grows with the position."""

    def __init__(self, dim: int, heads: int, base: float = 10_000.0) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ValueError(
                f"dim is {dim} and heads is {heads}, but dim must be a multiple of 2 × heads (rotary pairs)."
            )
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        half = dim // heads // 2
        self.register_buffer("frequency", base ** (-torch.arange(half) / half), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        angle = torch.outer(torch.arange(x.shape[1], device=x.device), self.frequency)  # [N, d/heads/2]
        query, key = rotate(query, angle), rotate(key, angle)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn pair (i, i + d/2) of the last axis: x [..., N, d], angle [N, d/2] in radians -> [..., N, d]."""
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class GptBlock(nn.Module):
    """Attention and a gated perceptron, each behind an RMSNorm and added to what came in."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = nn.RMSNorm(dim, 1e-5), RotaryAttention(dim, heads)
        self.post_attention_layernorm, self.mlp = nn.RMSNorm(dim, 1e-5), GatedMLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Gpt(nn.Module):
    """Bytes -> logits of the next byte; 877,696 weights with the defaults.

    Args:
        dim: width d; a multiple of 2 × heads.
        depth: blocks.
        heads: of the attention.
        hidden: width of a block's perceptron.
        vocabulary: tokens.
        context: tokens that it was made for; longer inputs run, nothing has trained them.

    Raises:
        ValueError: a `dim` that heads and rotary pairs do not divide.
    """

    subsets: Sequence[Sequence[str]] = SUBSETS

    def __init__(
        self,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        hidden: int = 384,
        vocabulary: int = VOCABULARY,
        context: int = 128,
    ) -> None:
        super().__init__()
        self.context = whole("context", context)
        self.embed_tokens = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(GptBlock(dim, heads, hidden) for _ in range(whole("depth", depth)))
        self.norm, self.lm_head = nn.RMSNorm(dim, 1e-5), nn.Linear(dim, vocabulary, bias=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, N] -> hidden states [B, N, d], as the first block takes them."""
        return self.embed_tokens(tokens)

    def run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """One of `blocks` on hidden states [B, N, d] -> [B, N, d]."""
        return block(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """What the last block gave, [B, N, d] -> [B, N, vocabulary]."""
        return self.lm_head(self.norm(hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, N] -> logits of the token after each, [B, N, vocabulary]."""
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = self.run_block(block, hidden)
        return self.logits(hidden)


class PretrainedGpt(nn.Module):
    """A LLaMA-like causal LM of `transformers` with the same doors as `Gpt`; its blocks are used as they are.

    Args:
        model: a causal LM whose `model.layers` have `self_attn` and `mlp` with LLaMA's names (Llama, Mistral, Qwen …).

    Raises:
        ValueError: blocks of another kind.
    """

    subsets = SUBSETS

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.body, self.lm_head = getattr(model, "model", None), getattr(model, "lm_head", None)
        names = [name for subset in SUBSETS for name in subset]
        layers = getattr(self.body, "layers", [])
        found = {name for name, _ in layers[0].named_modules()} if len(layers) else set()
        if self.lm_head is None or not found.issuperset(names):
            raise ValueError(
                f"{type(model).__name__} has no blocks of LLaMA's kind (model.layers with {', '.join(names)}): take a "
                "Llama, Mistral or Qwen2 model, or write an adapter with `blocks`, `embed`, `run_block` and `logits`."
            )
        self.context = getattr(model.config, "max_position_embeddings", 2048)

    @property
    def blocks(self) -> nn.ModuleList:
        """In order; a property, so that each weight has one name."""
        return self.body.layers

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, N] -> [B, N, d]."""
        return self.body.embed_tokens(tokens)

    def run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, d]; positions from 0, causal."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        turned = self.body.rotary_emb(hidden, positions)
        causal = torch.full((hidden.shape[1],) * 2, float("-inf"), device=hidden.device, dtype=hidden.dtype).triu(1)
        out = block(hidden, attention_mask=causal[None, None], position_embeddings=turned, position_ids=positions)
        return out[0] if isinstance(out, tuple) else out

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, vocabulary]."""
        return self.lm_head(self.body.norm(hidden))

    forward = Gpt.forward


def pretrained(name: str | Path) -> PretrainedGpt:
    """A causal LM from a local folder or by its name on the Hugging Face hub; needs the extra `llm`.

    Raises:
        ModuleNotFoundError: `transformers` is not installed.
        ValueError: no such folder or name, or a model of another kind.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "a pretrained model needs the package transformers: in the clone, pip install -c constraints.txt -e '.[llm]'."
        ) from None
    here = Path(name)
    if not here.is_dir() and (here.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1):
        raise ValueError(
            f"{name} is no folder: give the folder of a saved causal LM, or its name on the hub (owner/name)."
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0][:160]
        raise ValueError(
            f"{name} is neither a folder with a causal LM nor a name on the hub that can be reached ({said})."
        ) from None
    return PretrainedGpt(model).eval().requires_grad_(False)


TRAINING = {"steps": 1000, "batch": 12, "lr": 4e-3, "seed": 0}
"""Of the shipped model, in context windows of 128 tokens."""


def train_gpt(
    model: Gpt, tokens: Tensor, *, steps: int = 1000, batch: int = 12, lr: float = 4e-3, seed: int = 0
) -> Gpt:
    """Train in place to guess the next token; returns the model, in eval mode.

    AdamW (betas 0.9 and 0.95, weight decay 0.05), 30 steps of warm-up, then linear down to 3 %, gradients clipped at 1.

    Args:
        model: fresh, in place.
        tokens: int64 [N].
        steps, batch: of `batch` windows each, drawn anywhere in the text.
        lr: the highest learning rate.
        seed: of the windows.
    """
    pieces = windows(tokens, whole("steps", steps) * whole("batch", batch), model.context, seed)

    def loss(piece: Tensor) -> Tensor:
        piece = piece.to(model.lm_head.weight.device)
        return F.cross_entropy(model(piece[:, :-1]).flatten(0, 1), piece[:, 1:].flatten())

    def rate(done: float) -> float:
        return min((done * steps + 1) / 30, 1 - 0.97 * done)

    groups = [{"params": list(model.train().parameters()), "betas": (0.9, 0.95)}]
    fit(
        model,
        batches(pieces, size=batch, seed=seed),
        loss,
        epochs=1,
        lr=lr,
        schedule=rate,
        weight_decay=0.05,
        clip=1.0,
        groups=groups,
        label="bytes",
    )
    return model.eval()


def pydoc_gpt() -> Gpt:
    """The shipped model: 877,696 weights, trained on Python's documentation, frozen, in eval mode.

    Made by `course/subjects/pydoc_gpt.py`.

    Raises:
        DataError: the file in data/subjects/ is missing or damaged.
    """
    tensors, _ = load_subject("pydoc_gpt")
    model = Gpt()
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval().requires_grad_(False)
