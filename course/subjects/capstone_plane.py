"""Every device of helpers.capstone.choices.grid, run over its 500 held-out scenes. Some ten minutes on two cores.

course subjects        # or: python course/subjects/capstone_plane.py, after capstone_nets.py
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor

import torch
from tqdm import tqdm

from helpers.capstone.choices import Choices, grid
from helpers.capstone.networks import SUBJECT
from helpers.capstone.pipeline import PLANE, packed, run
from helpers.data.subjects import load_subject
from helpers.lab.memory import keep_freed_memory
from helpers.lab.run import cores


def alike(devices: list[Choices]) -> list[dict]:
    """Results of devices that look alike, so that their eye watches once."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return [packed(run(made)) for made in devices]


def main() -> None:
    """Run all and save."""
    devices = grid()
    eyes = {(made.sensing, made.every): [] for made in devices}
    for made in devices:
        eyes[made.sensing, made.every].append(made)
    with ProcessPoolExecutor(cores()) as workers:
        found = list(tqdm(workers.map(alike, eyes.values()), total=len(eyes), desc="ways of looking"))
    by_key = {
        made.key: result
        for group, results in zip(eyes.values(), found, strict=True)
        for made, result in zip(group, results, strict=True)
    }
    results = [by_key[made.key] for made in devices]
    head = {
        "what": "results of helpers.capstone.pipeline.pipeline over 500 held-out scenes, seed 0",
        "command": "python course/subjects/capstone_plane.py",
        "networks": load_subject(SUBJECT)[1]["sha256"],
    }
    rows = ",\n".join(json.dumps(result, ensure_ascii=False, separators=(",", ":")) for result in results)
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "results": [\n{rows}\n]}}\n'
    scratch = PLANE.with_suffix(".partial")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, PLANE)
    print(PLANE.name, len(results), "devices,", f"{PLANE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
