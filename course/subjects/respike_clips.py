"""Four nets on moving digits for lesson 04.1: the hybrid, two with cross-attention, their ordinary twin. About 90 seconds.

course subjects        # or: python course/subjects/respike_clips.py
"""

import torch

from helpers.data.clips import moving_digits
from helpers.data.subjects import save_subject
from helpers.lab.memory import keep_freed_memory
from helpers.respike.training import learn, new_net

SEED, CLIPS, NAMES = 0, 1200, ("hybrid", "late fusion", "fusion", "twin")


def main() -> None:
    """Train all four and save them."""
    torch.set_num_threads(1)
    keep_freed_memory()
    clips, tensors = moving_digits(CLIPS, seed=SEED), {}
    for name in NAMES:
        net = learn(new_net(name, len(clips.classes), seed=SEED), clips, seed=SEED, label=name)
        # Half precision: the file is half as large; lesson and tests measure what it really answers.
        kept = {key: value.half() for key, value in net.state_dict().items() if "num_batches" not in key}
        tensors |= {f"{name}.{key}": value for key, value in kept.items()}
    path = save_subject(
        "respike_clips",
        tensors,
        what=f"ReSpikeNet(16, 4, …) as helpers.respike.training.NETS has them: {', '.join(NAMES)}; float16",
        data=f"moving_digits({CLIPS}, seed={SEED}): digits 0 to 3 of scikit-learn in four directions",
        recipe=f"helpers.respike.training.learn with its defaults, seed {SEED}",
        keys="<net>.<parameter>",
        command="python course/subjects/respike_clips.py",
        licence="Apache-2.0; the digits: E. Alpaydin, C. Kaynak, UCI, 1998, CC BY 4.0",
    )
    print(path.relative_to(path.parents[2]), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
