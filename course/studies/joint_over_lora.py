"""The study of lesson 05.2: does joint training separate from plain LoRA in one of four settings? See course/studies.md.

python course/studies/joint_over_lora.py                     # screening: seeds 30, 31, 32
python course/studies/joint_over_lora.py --confirm wider     # a candidate on the seeds 40 to 44
"""

import argparse
import datetime
import json
import os
import time

import torch

from helpers import ROOT
from helpers.data.idx import DataError
from helpers.data.omniglot import omniglot
from helpers.lab.memory import keep_freed_memory
from helpers.models.vit import PRETRAINING, ViT, glyph_vit, pretrain
from helpers.prompts.open_world import travel
from helpers.prompts.open_world_stream import open_world_stream

OMNIGLOT = {"dataset": "omniglot", "per_stage": 40, "test_classes": 60}
SETTINGS = {  # arguments of the stream, arguments of the learner
    "wider": ({}, {}),
    "omniglot": (OMNIGLOT, {}),
    "more pictures": ({"each": 160}, {}),
    "more prompts": ({}, {"layers": (0, 1, 2, 3, 4, 5), "prompt_length": 8}),
}
PAIR = ("joint", "LoRA")
FILE = ROOT / "course" / "results" / "studies" / "joint_over_lora.json"


def wide_vit() -> ViT:
    """The wider network, pre-trained as the shipped one is."""
    torch.manual_seed(PRETRAINING["seed"])
    vit = ViT(dim=96)
    pretrain(vit, **PRETRAINING)
    return vit.eval().requires_grad_(False)


def main() -> None:
    """Run, print, and write after every setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--confirm", choices=SETTINGS)
    chosen = parser.parse_args().confirm
    try:
        omniglot()  # before any work
    except DataError as error:
        parser.error(str(error))
    seeds = list(range(40, 45)) if chosen else [30, 31, 32]
    torch.set_num_threads(1)
    keep_freed_memory()
    kept = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for name in [chosen] if chosen else SETTINGS:
        begin, (stream, more) = time.process_time(), SETTINGS[name]
        vit, found = wide_vit() if name == "wider" else glyph_vit(), {learner: [] for learner in PAIR}
        for seed in seeds:
            world = open_world_stream(seed=seed, **stream)
            for learner in PAIR:
                found[learner].append(round(travel(learner, vit, world, seed=seed, **more).recall[-1], 4))
        minutes = round((time.process_time() - begin) / 60, 2)
        entry = {"seeds": seeds, **found, "cpu_minutes": minutes, "date": datetime.date.today().isoformat()}
        kept[f"{name}, confirmed" if chosen else name] = entry
        FILE.parent.mkdir(parents=True, exist_ok=True)
        scratch = FILE.with_suffix(".partial")
        scratch.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, FILE)
        gaps = [100 * (a - b) for a, b in zip(*found.values(), strict=True)]
        print(
            f"{name}: {found}, joint - LoRA {[f'{gap:+.1f}' for gap in gaps]} points, {minutes} CPU-minutes", flush=True
        )


if __name__ == "__main__":
    main()
