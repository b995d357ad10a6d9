"""Two spiking transformers on handwritten digits for lesson 03.1, one for each reach of the attention. About 20 seconds.

course subjects        # or: python course/subjects/statten_digits.py
"""

import torch
from torch.nn import functional as F

from helpers.data.images import digits
from helpers.data.subjects import save_subject
from helpers.lab.memory import keep_freed_memory
from helpers.lab.training import batches, fit
from helpers.statten.spiking_transformer import SpikingTransformer

SEED, EPOCHS, TIMESTEPS, DIM = 0, 12, 4, 32


def main() -> None:
    """Train both and save them."""
    torch.set_num_threads(1)
    keep_freed_memory()
    data, tensors = digits(seed=SEED), {}
    for chunk in (1, TIMESTEPS):
        torch.manual_seed(SEED)
        net = SpikingTransformer(1, DIM, 1, 4, TIMESTEPS, chunk, 10, "0001", mlp_ratio=2.0)
        order = batches(data.train_images, data.train_labels, size=64, seed=SEED)

        def loss(x, y, net=net):
            return F.cross_entropy(net(x).mean(0), y)

        fit(net, order, loss, epochs=EPOCHS, lr=5e-3, weight_decay=1e-3, label=f"chunk {chunk}")
        tensors |= {f"{chunk}.{name}": value for name, value in net.state_dict().items() if "num_batches" not in name}
    path = save_subject(
        "statten_digits",
        tensors,
        what=f"SpikingTransformer(1, {DIM}, 1, 4, {TIMESTEPS}, chunk, 10, '0001', mlp_ratio=2) on scikit-learn's digits",
        data=f"digits(seed={SEED}): 1,297 training images in [0, 1]",
        recipe=f"{EPOCHS} epochs, batch 64, AdamW, lr 0.005, weight decay 0.001, one cycle, seed {SEED}",
        keys="<chunk>.<parameter>, chunk 1 (spatial only) or 4 (all timesteps)",
        command="python course/subjects/statten_digits.py",
        licence="Apache-2.0; the digits: E. Alpaydin, C. Kaynak, UCI, 1998, CC BY 4.0",
    )
    print(path.relative_to(path.parents[2]), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
