"""Open-world learning on, DPaRL-style: prompts made for the picture, and the representation trained along with them.

    u = G([CLS; e_1 … e_s; patches])_CLS        G: a second ViT that also reads the stage tokens e
    P = h(u)                                    h: d → 32 → blocks · length · d
    z = V(x; P)                                 V: the ViT whose features are searched; P joins keys and values as a prefix

No code of the paper was found. The setting, the generator with stage tokens (at most five, the oldest leaves) and the joint
training are its; the sizes of h, the frozen G, the loss and the rank of V's adaptation are ours.

Sources: Y. Kim et al., "Open-World Dynamic Prompt and Continual Visual Representation Learning", ECCV 2024, arXiv 2409.05312
(abstract, summaries); E. J. Hu et al., "LoRA", ICLR 2022; H. Wang et al., "CosFace", CVPR 2018, for the normalised softmax.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.data.checks import whole
from helpers.models.vit import Prefix, ViT


class LoRALinear(nn.Module):
    """A linear layer left as it is, plus a product of two thin matrices that learns: Wx + b + B(Ax), B = 0 at first.

    Args:
        base: the layer; frozen.
        rank: width between A and B, at least 1.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        whole("rank", rank, 1, min(base.weight.shape))
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features, device=base.weight.device) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def add_lora(vit: ViT, rank: int = 4) -> list[nn.Parameter]:
    """Put a `LoRALinear` around the query-key-value layer of every block, in place; returns what learns.

    Raises:
        ValueError: the network has one already, or a rank that is not possible.
    """
    learning = []
    for block in vit.blocks:
        if isinstance(block.attention.qkv, LoRALinear):
            raise ValueError("this network has LoRA already: make a copy of a plain one.")
        block.attention.qkv = LoRALinear(block.attention.qkv, rank)
        learning += [block.attention.qkv.down, block.attention.qkv.up]
    return learning


class PromptGenerator(nn.Module):
    """A network that looks at the picture and at the stages so far, and says what another one is to be told.

    Args:
        vit: G; copied and frozen.
        layers: blocks of V to prompt, from 0.
        prompt_length: L_p, tokens of a prompt: the first half goes before the keys, the second before the values.
        max_stage_tokens: when there would be more, the oldest leaves.
        lora_rank: of an adaptation of G that learns; 0 leaves G as it is.
        width: of h between its two layers.

    Raises:
        ValueError: an odd length, no layers, or numbers that are not whole.
    """

    def __init__(
        self,
        vit: ViT,
        layers: Sequence[int] = (0, 1, 2),
        prompt_length: int = 4,
        *,
        max_stage_tokens: int = 5,
        lora_rank: int = 0,
        width: int = 32,
    ) -> None:
        super().__init__()
        if whole("prompt_length", prompt_length, 0) % 2:
            raise ValueError(
                f"prompt_length is {prompt_length}, but it must be even: half for the keys, half for the values."
            )
        if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(range(vit.depth)):
            raise ValueError(
                f"layers is {tuple(layers)}, but it must be some of the blocks 0 to {vit.depth - 1}, each once."
            )
        whole("width", width)
        self.vit = copy.deepcopy(vit).requires_grad_(False)
        self.lora = nn.ParameterList(add_lora(self.vit, lora_rank) if lora_rank else [])
        self.layers, self.prompt_length = tuple(layers), prompt_length
        self.max_stage_tokens = whole("max_stage_tokens", max_stage_tokens)
        self.stage_tokens = nn.ParameterList()
        self.h = nn.Sequential(
            nn.Linear(vit.dim, width), nn.GELU(), nn.Linear(width, len(self.layers) * prompt_length * vit.dim)
        )
        nn.init.normal_(self.h[2].weight, std=0.02)  # hardly a prompt at first
        nn.init.zeros_(self.h[2].bias)

    def new_stage(self) -> None:
        """Add a stage token and freeze all older ones; beyond the most that are kept, the oldest leaves."""
        older = [token.requires_grad_(False) for token in self.stage_tokens]
        token = nn.Parameter(0.02 * torch.randn(1, 1, self.vit.dim, device=self.h[0].weight.device))
        self.stage_tokens = nn.ParameterList([*older, token][-self.max_stage_tokens :])

    def learning(self) -> list[nn.Parameter]:
        """What a stage trains: the newest stage token, h, and G's adaptation where it has one."""
        return [*self.stage_tokens[-1:], *self.h.parameters(), *self.lora]

    def summary(self, x: Tensor, tokens: int | None = None) -> Tensor:
        """u: what G makes of pictures [B, 1, side, side] and the newest stage tokens, [B, d].

        Args:
            x: pictures.
            tokens: how many stage tokens it may read, the newest ones; None: all.

        Raises:
            ValueError: a negative number of tokens.
        """
        there = len(self.stage_tokens)
        kept = list(self.stage_tokens)[there - min(whole("tokens", there if tokens is None else tokens, 0), there) :]
        seen = self.vit.tokens(x)
        # Behind [CLS] and without a position: their order does not matter, only which of them are there.
        stages = [token.expand(len(x), -1, -1) for token in kept]
        return self.vit.encode(torch.cat([seen[:, :1], *stages, seen[:, 1:]], 1))

    def forward(self, x: Tensor, tokens: int | None = None) -> dict[int, Prefix]:
        """By block, what goes before its keys and before its values: [B, prompt_length/2, d] each."""
        shape = (len(self.layers), 2, self.prompt_length // 2, self.vit.dim)
        told = self.h(self.summary(x, tokens)).unflatten(-1, shape)
        return {layer: (told[:, i, 0], told[:, i, 1]) for i, layer in enumerate(self.layers)}


class CosineSoftmax(nn.Module):
    """Loss of a stage: softmax over cosines with a direction for each class, which are thrown away afterwards.

    -log( exp(cos(z, w_y)/τ) / Σ_c exp(cos(z, w_c)/τ) )

    Args:
        dim: of the embeddings.
        classes: of the stage.
        temperature: τ.

    Raises:
        ValueError: a temperature that is not above 0.
    """

    def __init__(self, dim: int, classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, but it must be above 0.")
        # Short at first: only the direction counts, and a short arrow turns in a few steps. A long one makes V come to it.
        self.weight = nn.Parameter(0.02 * torch.randn(whole("classes", classes), dim))
        self.temperature = temperature

    def cosines(self, z: Tensor) -> Tensor:
        """[B, d] -> [B, classes], in [-1, 1]."""
        return F.normalize(z, dim=-1) @ F.normalize(self.weight, dim=-1).T

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Embeddings [B, d] and classes [B] -> the mean loss."""
        return F.cross_entropy(self.cosines(z) / self.temperature, y)
