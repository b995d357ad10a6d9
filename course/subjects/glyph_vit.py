"""The small ViT of chapter 5: pre-trained on 200 invented letters. About a minute.

course subjects        # or: python course/subjects/glyph_vit.py
"""

import torch

from helpers.data.subjects import save_subject
from helpers.lab.memory import keep_freed_memory
from helpers.models.vit import PRETRAINING, ViT, pretrain


def main() -> None:
    """Train and save."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(PRETRAINING["seed"])
    vit = ViT()
    head = pretrain(vit, **PRETRAINING)
    # Half precision: the file is half as large; lessons and tests measure what it really answers.
    tensors = {name: value.half() for name, value in vit.state_dict().items()}
    tensors |= {f"head.{name}": value.half() for name, value in head.state_dict().items()}
    path = save_subject(
        "glyph_vit",
        tensors,
        what="helpers.models.vit.ViT() and the linear head of its pre-training; float16",
        data="helpers.data.glyphs: alphabet(200, 0), 80 hands a letter (write(…, seed=1)); no digits, no real writing",
        recipe=f"helpers.models.vit.pretrain with {PRETRAINING}",
        keys="<parameter>, head.<parameter>",
        command="python course/subjects/glyph_vit.py",
        licence="Apache-2.0",
    )
    print(path.relative_to(path.parents[2]), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
