"""Events of a camera that reports changes: simulated saccades over still images, batches, samples, voxel counts.

An event is (t, y, x, p): at t microseconds the pixel (y, x) grew brighter (p = 1, ON) or darker (p = 0, OFF).
A stream is a structured array of dtype `EVENT`, sorted by time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

EVENT = np.dtype([("t", "<i8"), ("y", "<i2"), ("x", "<i2"), ("p", "u1")])
LEG = 100_000
"""Microseconds of one saccade leg; there are three."""
_CHUNK = 2**15
"""Pixels that are simulated at once: what fits a cache."""


@dataclass(frozen=True)
class EventBatch:
    """Padded streams: t [µs] float64, y, x, p int64, mask bool, all [B, L]; padding is -1 in the first four."""

    t: Tensor
    y: Tensor
    x: Tensor
    p: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows) -> "EventBatch":
        """Some of the samples, as a batch: `batch[3:5]`, `batch[indices]`."""
        return EventBatch(*(part[rows] for part in self._parts()))

    def to(self, device: str) -> "EventBatch":
        """The same batch on a device; one without double precision (mps) gets times in single precision."""
        single = torch.device(device).type == "mps"
        parts = [part.float() if single and part.is_floating_point() else part for part in self._parts()]
        return EventBatch(*(part.to(device) for part in parts))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.t, self.y, self.x, self.p, self.mask


def as_stream(t: ArrayLike, y: ArrayLike, x: ArrayLike, p: ArrayLike) -> NDArray:
    """Columns [n] as one structured array of dtype `EVENT`."""
    stream = np.empty(len(t), EVENT)
    for field, column in (("t", t), ("y", y), ("x", x), ("p", p)):
        stream[field] = column
    return stream


def check_events(stream: NDArray, height: int | None = None, width: int | None = None) -> None:
    """Refuse what is no stream of events.

    Args:
        stream: structured array of dtype `EVENT`.
        height, width: of the sensor, if known.

    Raises:
        ValueError: an empty stream, times that go backwards, a polarity other than 0 and 1, or an event off the sensor.
    """
    if getattr(stream, "dtype", None) is None or set(stream.dtype.names or ()) < {"t", "y", "x", "p"}:
        raise ValueError("a stream must be a structured array with the fields t, y, x and p (dtype EVENT).")
    if len(stream) == 0:
        raise ValueError("the stream holds no events, but at least one is needed: leave silent streams out.")
    if bool((np.diff(stream["t"]) < 0).any()):
        raise ValueError("the stream's times go backwards, but it must be sorted: use np.sort(stream, order='t').")
    if not np.isin(stream["p"], (0, 1)).all():
        raise ValueError(f"polarity must be 0 or 1, but {int(stream['p'].max())} is among the stream's.")
    for axis, size in (("y", height), ("x", width)):
        low, high = int(stream[axis].min()), int(stream[axis].max())
        if low < 0 or (size is not None and high >= size):
            raise ValueError(f"{axis} runs from {low} to {high}, off a sensor of {size} pixels: crop the stream first.")


def simulate_saccades(
    images: NDArray | Tensor,
    sensor: int = 16,
    amplitude: float = 2.0,
    frames: int = 8,
    contrast: float = 0.4,
    eps: float = 0.2,
) -> list[NDArray]:
    """What an event camera sees of still images while it makes three small eye movements; no randomness.

    The image, zero outside, is shifted along (dx, dy) = (0, 0) → (a, a/2) → (0, a) → (0, 0), a leg a straight line of
    100 ms in `frames` steps, by bilinear interpolation. A pixel keeps a reference level of l = ln(I + eps). Each time
    l has moved from it by a whole multiple of `contrast` since, it sends that many events, at the times at which a
    straight line from the last frame's l crosses those levels, and moves its reference there.

    Args:
        images: ink in [0, 1], shape [N, h, w] or [N, 1, h, w].
        sensor: side of the square sensor in pixels; the image is centred in it.
        amplitude: a, in pixels.
        frames: F, frames a leg.
        contrast: C, change of log intensity that an event stands for.
        eps: background intensity, keeps the logarithm finite.

    Returns:
        N streams of dtype `EVENT`, sorted by (t, y, x, p); times lie in [0, 300000] µs. The path is closed, so each pixel
        sends as many ON as OFF events.

    Raises:
        ValueError: images of another shape or outside [0, 1], an image that with the movement exceeds the sensor,
            or amplitude < 0, frames < 1, contrast ≤ 0 or eps ≤ 0.

    Source: derived here after G. Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using
    Saccades", Frontiers in Neuroscience 2015 (three saccades); the levels follow H. Rebecq et al., "ESIM", CoRL 2018.
    """
    pixels = _ink(images)
    if not (amplitude >= 0 and frames >= 1 and contrast > 0 and eps > 0):
        raise ValueError(
            f"amplitude is {amplitude}, frames {frames}, contrast {contrast}, eps {eps}, but amplitude must be at least "
            "0, frames at least 1, contrast and eps above 0."
        )
    height, width = pixels.shape[1:]
    if max(height, width) + amplitude > sensor:
        raise ValueError(
            f"images of {height}×{width} moved by {amplitude} pixels leave a sensor of {sensor}: make it larger."
        )
    down, right = _shifts(sensor, height, width, amplitude, frames)
    # Only pixels that the image ever reaches can change.
    rows, columns = (np.flatnonzero(tents.any((0, 2))) for tents in (down, right))
    down, right = down[:, rows], right[:, columns]
    step = max(1, _CHUNK // (len(rows) * len(columns)))
    streams: list[NDArray] = []
    for start in range(0, len(pixels), step):
        events, ends = _simulate(pixels[start : start + step], down, right, LEG / frames, contrast, eps)
        events["y"] += rows[0]
        events["x"] += columns[0]
        streams += np.split(events, ends)
    return streams


def log_levels(
    images: NDArray | Tensor, sensor: int = 16, amplitude: float = 2.0, frames: int = 8, eps: float = 0.2
) -> tuple[NDArray, NDArray]:
    """What the pixels of `simulate_saccades` see: times of the frames [3F + 1] in µs, and l = ln(I + eps) [3F + 1, N, H, W].

    Args:
        images, sensor, amplitude, frames, eps: as for `simulate_saccades`.
    """
    pixels = _ink(images)
    down, right = _shifts(sensor, *pixels.shape[1:], amplitude, frames)
    levels = np.log(np.einsum("fyh,nhw,fxw->fnyx", down, pixels, right) + eps)
    return np.arange(3 * frames + 1) * (LEG / frames), levels


def _ink(images: NDArray | Tensor) -> NDArray:
    pixels = np.asarray(images, dtype=np.float64)
    pixels = pixels[:, 0] if pixels.ndim == 4 and pixels.shape[1] == 1 else pixels
    if pixels.ndim != 3 or (pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1)):
        raise ValueError(f"images have shape {np.shape(images)}, but [N, h, w] with values in [0, 1] is needed.")
    return pixels


def _shifts(sensor: int, height: int, width: int, amplitude: float, frames: int) -> tuple[NDArray, NDArray]:
    """The movement as two interpolation matrices a frame, down [frames, sensor, h] and right [frames, sensor, w]."""
    path = _path(amplitude, frames)
    down = _tents(sensor, height, (sensor - height - amplitude) / 2 + path[:, 1])
    return down, _tents(sensor, width, (sensor - width - amplitude) / 2 + path[:, 0])


def _path(amplitude: float, frames: int) -> NDArray:
    """(dx, dy) of every frame, shape [3·frames + 1, 2]."""
    corners = np.array([(0, 0), (amplitude, amplitude / 2), (0, amplitude), (0, 0)], dtype=float)
    at = np.arange(3 * frames + 1) / frames
    return np.stack([np.interp(at, range(4), corners[:, axis]) for axis in (0, 1)], axis=1)


def _tents(sensor: int, side: int, offsets: NDArray) -> NDArray:
    """Bilinear interpolation along one axis as a matrix a frame, shape [frames, sensor, side]."""
    distance = np.arange(sensor)[:, None] - np.arange(side)[None, :] - offsets[:, None, None]
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _simulate(pixels: NDArray, down: NDArray, right: NDArray, dt: float, contrast: float, eps: float) -> tuple:
    """The events of all images in one array, by image, and where each but the first begins."""
    count, height, width = len(pixels), down.shape[1], right.shape[1]

    def level(frame: int) -> NDArray:
        return np.log(down[frame] @ pixels @ right[frame].T + eps).ravel()

    reference = level(0)
    last, keys = reference.copy(), []
    for frame in range(1, len(down)):
        now = level(frame)
        moved = now - reference
        crossed = np.floor(np.abs(moved) / contrast + 1e-9).astype(np.int64)
        active = np.flatnonzero(crossed)
        times = crossed[active]
        sign = np.sign(moved[active])
        which = np.repeat(active, times)
        # j counts 1, 2, …, n within each pixel's n crossings.
        j = np.arange(1, len(which) + 1) - np.repeat(np.cumsum(times) - times, times)
        target = reference[which] + np.repeat(sign, times) * j * contrast
        share = np.clip((target - last[which]) / (now - last)[which], 0.0, 1.0)
        t = np.rint((frame - 1 + share) * dt).astype(np.int64)
        image, place = np.divmod(which, height * width)
        on = np.repeat(sign > 0, times)
        # One integer sorts by (image, t, y, x, p): 20 bits of time, place = y·width + x, 1 bit of polarity.
        keys.append((((image << 20) + t) * (height * width) + place) * 2 + on)
        reference[active] += sign * times * contrast
        last = now
    key = np.sort(np.concatenate(keys))
    stamp, place = np.divmod(key >> 1, height * width)
    events = as_stream(stamp & (2**20 - 1), *np.divmod(place, width), key & 1)
    return events, np.searchsorted(stamp >> 20, np.arange(1, count))


def pad(streams: Sequence[NDArray]) -> EventBatch:
    """All events of some streams as one batch, padded to the longest.

    Raises:
        ValueError: no streams, or one of them is none (see `check_events`).
    """
    if len(streams) == 0:
        raise ValueError("no streams were given, but a batch needs at least one.")
    for stream in streams:
        check_events(stream)
    lengths = np.array([len(stream) for stream in streams])
    mask = np.arange(lengths.max()) < lengths[:, None]
    joined = np.concatenate(streams)
    parts = []
    for field, kind in (("t", np.float64), ("y", np.int64), ("x", np.int64), ("p", np.int64)):
        full = np.full(mask.shape, -1, kind)
        full[mask] = joined[field]
        parts.append(torch.from_numpy(full))
    return EventBatch(*parts, torch.from_numpy(mask))


def sample_events(streams: Sequence[NDArray], n: int, rng: np.random.Generator) -> EventBatch:
    """At most n events of each stream, drawn without replacement and kept in time order.

    A new draw every epoch is augmentation and speed-up at once.

    Args:
        streams: of dtype `EVENT`.
        n: events a stream; a shorter stream gives all it has.
        rng: same state, same draw.

    Returns:
        An `EventBatch` [B, L], L the longest draw.

    Raises:
        ValueError: n below 1, or a stream that is none (see `check_events`).

    Source: event2vec, arXiv 2504.15371, official code (both branches).
    """
    if n < 1:
        raise ValueError(f"n is {n}, but at least one event must be drawn from each stream.")
    drawn = [stream[np.sort(rng.permutation(len(stream))[:n])] if len(stream) > n else stream for stream in streams]
    return pad(drawn)


class EventBatches:
    """Mini-batches of sampled events with their labels: streams in a new order and newly drawn in every pass.

    Args:
        streams, labels: the data set; labels int64 [N].
        n: events a stream.
        size: streams a batch; the last one may be smaller.
        seed: same seed, same batches.

    Raises:
        ValueError: another number of labels than of streams, or a size below 1.
    """

    def __init__(self, streams: Sequence[NDArray], labels: Tensor, n: int, size: int, seed: int) -> None:
        if len(streams) != len(labels) or size < 1:
            raise ValueError(
                f"{len(streams)} streams, {len(labels)} labels and size {size} were given, but each stream needs a label "
                "and a batch at least one stream."
            )
        self.streams, self.labels, self.n, self.size = streams, labels, n, size
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.streams) // self.size)

    def __iter__(self) -> Iterable[tuple[EventBatch, Tensor]]:
        order = self.rng.permutation(len(self.streams))
        for start in range(0, len(order), self.size):
            picked = order[start : start + self.size]
            events = sample_events([self.streams[index] for index in picked], self.n, self.rng)
            yield events.to(str(self.labels.device)), self.labels[torch.from_numpy(picked)]


def voxelize(events: EventBatch, bins: int, sensor: int | tuple[int, int], duration: float | None = None) -> Tensor:
    """Event counts by polarity, time bin and pixel: the frames that a frame network reads.

    Args:
        events: a batch.
        bins: time bins.
        sensor: side of the sensor, or (height, width).
        duration: µs that the bins divide, from t = 0; None: each sample's own span, from its first event to its last.

    Returns:
        Counts [B, 2·bins, H, W], float32; channel p·bins + bin. Their sum is the number of events.

    Raises:
        ValueError: bins below 1, or an event off the sensor.
    """
    height, width = (sensor, sensor) if isinstance(sensor, int) else sensor
    mask = events.mask
    if bins < 1:
        raise ValueError(f"bins is {bins}, but at least one time bin is needed.")
    for axis, place, size in (("y", events.y[mask], height), ("x", events.x[mask], width)):
        if place.numel() and not 0 <= int(place.min()) <= int(place.max()) < size:
            raise ValueError(
                f"{axis} runs from {int(place.min())} to {int(place.max())}, off a sensor of {height}×{width}."
            )
    t = events.t
    if duration is None:
        start = t[:, :1]
        t = t - start
        duration = t.masked_fill(~mask, 0).amax(1, keepdim=True).clamp(min=1)
    slot = (t * bins / duration).long().clamp(0, bins - 1)
    sample = torch.arange(len(t), device=t.device)[:, None]
    index = (((sample * 2 + events.p) * bins + slot) * height + events.y) * width + events.x
    counts = torch.bincount(index[mask], minlength=len(t) * 2 * bins * height * width)
    return counts.view(len(t), 2 * bins, height, width).float()
