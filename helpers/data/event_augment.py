"""Augmentations of events for training: maps of the sensor onto itself, dropped stretches, and time that runs unevenly.

Every function is pure: it draws from the generator it is given, afresh for each sample, and returns something new. The
four kinds of map are 3×3 matrices, so any of them compose by `@` before one rounding. Events that leave the sensor are
masked out, never moved to its edge, where they would pile up to a line that no camera saw. Valid events stay first in
their row and in order, and every sample keeps at least one: a map that would lose all of them leaves that sample as it
was.

Source: W. Fang, P. Panda, "Event2Vec", arXiv 2504.15371, official code (branch main), for which augmentations, how strong
and how often. How long a dropped chunk is and what becomes of the sizes on a small sensor is decided here.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.data.events import EventBatch


def _stack(count: int, entries: dict[tuple[int, int], NDArray]) -> NDArray:
    """The identity `count` times, some entries replaced."""
    maps = np.tile(np.eye(3), (count, 1, 1))
    for (row, column), value in entries.items():
        maps[:, row, column] = value
    return maps


def resize(count: int, rng: np.random.Generator, limit: float = 0.2) -> NDArray:
    """Maps [count, 3, 3] that stretch each axis by its own factor in [1 - limit, 1 + limit]."""
    x, y = rng.uniform(1 - limit, 1 + limit, (2, count))
    return _stack(count, {(0, 0): x, (1, 1): y})


def rotate(count: int, rng: np.random.Generator, degrees: float = 15.0) -> NDArray:
    """Maps [count, 3, 3] that turn by an angle in [-degrees, degrees] about the sensor's centre."""
    angle = np.deg2rad(rng.uniform(-degrees, degrees, count))
    cosine, sine = np.cos(angle), np.sin(angle)
    return _stack(count, {(0, 0): cosine, (0, 1): -sine, (1, 0): sine, (1, 1): cosine})


def shear(count: int, rng: np.random.Generator, limit: float = 0.05) -> NDArray:
    """Maps [count, 3, 3] that push x along y and y along x, each by a share in [-limit, limit]."""
    x, y = rng.uniform(-limit, limit, (2, count))
    return _stack(count, {(0, 1): x, (1, 0): y})


def translate(count: int, rng: np.random.Generator, limit: float = 16.0) -> NDArray:
    """Maps [count, 3, 3] that move each axis by a number of pixels in [-limit, limit], whole or not."""
    x, y = rng.uniform(-limit, limit, (2, count))
    return _stack(count, {(0, 2): x, (1, 2): y})


def transform(batch: EventBatch, maps: NDArray, height: int, width: int) -> EventBatch:
    """Events where the maps send them: real coordinates, then rounded, then masked out if off the sensor.

    Args:
        batch: events on the sensor.
        maps: one per sample, [B, 3, 3], of the column (x, y, 1) as seen from the sensor's centre.
        height, width: of the sensor.

    Returns:
        A batch of the same shape.

    Raises:
        ValueError: a number of maps other than that of samples.
    """
    if np.shape(maps) != (len(batch), 3, 3):
        raise ValueError(
            f"maps have shape {np.shape(maps)}, but one 3×3 map for each of {len(batch)} samples is needed."
        )
    # Coordinates need no more than single precision, which every device has.
    a = torch.as_tensor(maps, dtype=torch.float32, device=batch.t.device).unsqueeze(1)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x, y = batch.x - middle_x, batch.y - middle_y
    new_x = (a[..., 0, 0] * x + a[..., 0, 1] * y + a[..., 0, 2] + middle_x).round().long()
    new_y = (a[..., 1, 0] * x + a[..., 1, 1] * y + a[..., 1, 2] + middle_y).round().long()
    kept = batch.mask & (new_x >= 0) & (new_x < width) & (new_y >= 0) & (new_y < height)
    left = kept.any(1, keepdim=True)
    x, y = torch.where(left, new_x, batch.x), torch.where(left, new_y, batch.y)
    return _compact(batch.t, y, x, batch.p, torch.where(left, kept, batch.mask))


def chunk_drop(batch: EventBatch, rng: np.random.Generator, chunks: int = 4, most: int = 256) -> EventBatch:
    """Some stretches of neighbouring events fall silent, at most `most` events in all and at most half of a sample's.

    Each chunk has a length from 0 to min(most, n/2)/chunks and begins anywhere; chunks may overlap. (256 is half of the 512
    events that the source trains with; half of a shorter sample keeps it as hard.)

    Args:
        batch: any.
        rng: same state, same draw.
        chunks: at least 1.
        most: at least 0.

    Returns:
        A batch of the same shape.

    Raises:
        ValueError: fewer chunks or events than that.
    """
    if chunks < 1 or most < 0:
        raise ValueError(f"chunks is {chunks}, most {most}, but they must be at least 1 and 0.")
    count = batch.mask.sum(1).cpu().numpy()[:, None]
    length = rng.integers(0, np.minimum(most, count // 2) // chunks + 1, (len(batch), chunks))
    start = rng.integers(0, count - length + 1)
    place = np.arange(batch.mask.shape[1])[:, None]
    dropped = ((place >= start[:, None]) & (place < (start + length)[:, None])).any(-1)
    silent = torch.from_numpy(dropped).to(batch.mask.device)
    return _compact(batch.t, batch.y, batch.x, batch.p, batch.mask & ~silent)


def chunk_time_warp(batch: EventBatch, rng: np.random.Generator, chunks: int = 4, limit: float = 0.2) -> EventBatch:
    """Time runs faster or slower in each of some equal runs of events, by a factor in [1 - limit, 1 + limit].

    The factor multiplies the differences between neighbouring events, which are then added up from the first event on.
    The released code multiplies the times themselves: where a chunk with a small factor follows one with a large
    factor, time jumps back and events are no longer sorted.

    Args:
        batch: any.
        rng: same state, same draw.
        chunks: at least 1.
        limit: from 0 to 1.

    Returns:
        A batch of the same shape; only its times differ.

    Raises:
        ValueError: fewer chunks than 1, or a limit outside [0, 1].
    """
    if chunks < 1 or not 0 <= limit <= 1:
        raise ValueError(f"chunks is {chunks}, limit {limit}, but at least one chunk and a limit in [0, 1] are needed.")
    factors = torch.as_tensor(rng.uniform(1 - limit, 1 + limit, (len(batch), chunks)))
    factors = factors.to(batch.t.device, batch.t.dtype)
    place = torch.arange(batch.mask.shape[1], device=batch.t.device)
    chunk = (place * chunks // batch.mask.sum(1, keepdim=True).clamp(min=1)).clamp(max=chunks - 1)
    both = batch.mask[:, 1:] & batch.mask[:, :-1]
    steps = torch.where(both, batch.t[:, 1:] - batch.t[:, :-1], 0) * factors.gather(1, chunk)[:, 1:]
    t = torch.cat([batch.t[:, :1], batch.t[:, :1] + steps.cumsum(1)], 1).masked_fill(~batch.mask, -1)
    return EventBatch(t, batch.y, batch.x, batch.p, batch.mask)


def augment(batch: EventBatch, rng: np.random.Generator, height: int, width: int, p: float = 0.5) -> EventBatch:
    """All augmentations, each with chance p for the whole batch, its strength drawn afresh for each sample.

    Resize ×[0.8, 1.2] per axis, rotate ±15°, shear ±0.05, translate ±16 pixels, then chunk drop and chunk time warp. On a
    sensor whose shorter side is below 128 the translation is an eighth of that side, as 16 is of 128: a digit moved by
    16 of 16 pixels would be gone.

    Args:
        batch: training events, on the sensor.
        rng: same state, same result.
        height, width: of the sensor.
        p: chance of each, in [0, 1].

    Returns:
        A batch of the same shape, sorted by time, on the sensor, valid events first and at least one in each sample.

    Raises:
        ValueError: p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, but a chance lies in [0, 1].")
    count, far = len(batch), min(16.0, min(height, width) / 8)
    maps = [
        kind(count, rng, limit)
        for kind, limit in ((resize, 0.2), (rotate, 15.0), (shear, 0.05), (translate, far))
        if rng.random() < p
    ]
    if maps:
        total = maps[0]
        for later in maps[1:]:
            total = later @ total
        batch = transform(batch, total, height, width)
    if rng.random() < p:
        batch = chunk_drop(batch, rng)
    return chunk_time_warp(batch, rng) if rng.random() < p else batch


def _compact(t: Tensor, y: Tensor, x: Tensor, p: Tensor, kept: Tensor) -> EventBatch:
    """Kept events first in each row, in order, the rest padding."""
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    mask = kept.gather(1, order)
    return EventBatch(*(part.gather(1, order).masked_fill(~mask, -1) for part in (t, y, x, p)), mask)
