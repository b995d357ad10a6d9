"""The byte-level language model of chapter 6, trained on Python's own documentation. About three minutes.

course subjects        # or: python course/subjects/pydoc_gpt.py
"""

import torch

from helpers.data.subjects import save_subject
from helpers.data.text import corpus, windows
from helpers.lab.measures import perplexity
from helpers.lab.memory import keep_freed_memory
from helpers.models.gpt import TRAINING, Gpt, train_gpt


def main() -> None:
    """Train, say how well it guesses what it has not seen, and save."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(TRAINING["seed"])
    text = corpus("pydoc")
    model = train_gpt(Gpt(), text.train, **TRAINING)
    for count in (48, 160):
        print(
            f"perplexity a byte on {count} held-out windows: {perplexity(model, windows(text.held_out, count, 128)):.3f}"
        )
    path = save_subject(
        "pydoc_gpt",
        # Half precision: the file is half as large; lessons and tests measure what it really answers.
        {name: value.half() for name, value in model.state_dict().items()},
        what="helpers.models.gpt.Gpt(); float16",
        data="data/text/pydoc_topics.txt (CPython 3.11's pydoc_data.topics, PSF licence), its first nine tenths",
        recipe=f"helpers.models.gpt.train_gpt with {TRAINING}",
        keys="<parameter>",
        command="python course/subjects/pydoc_gpt.py",
        licence="Apache-2.0",
    )
    print(path.relative_to(path.parents[2]), f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
