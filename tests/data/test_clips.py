"""Moving digits: every frame is the one before, rolled as the label says, and only the movement tells the direction."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from helpers.data import clips
from helpers.data.clips import DIRECTIONS, TASKS, ClipSet, moving_digits
from helpers.data.images import digits as split_digits

quick = settings(max_examples=25, deadline=None, derandomize=True)
STEPS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}


def step_of(label):
    """Rows and columns that the digit of this label moves by, a step."""
    return STEPS[DIRECTIONS[label % 4]]


@pytest.fixture
def dots(monkeypatch):
    """Pictures of one pixel: two of each class, and its brightness says which. Where a digit is can be read off a frame."""
    ink = torch.linspace(0.05, 1, 20)
    monkeypatch.setattr(clips, "_pictures", lambda *_: (ink.view(20, 1, 1), torch.arange(20) // 2))


def kind(brightness):
    """The class of a dot."""
    return torch.round(brightness * 20 - 1).long() // 2


def positions(frame):
    """Row and column of each dot of a frame [1, size, size], by its brightness."""
    return {frame[0, y, x].item(): (y, x) for y, x in frame[0].nonzero().tolist()}


def tracks(frames):
    """Of one clip [T, 1, size, size]: where each dot is in each frame, by its brightness."""
    found = [positions(frame) for frame in frames]
    return {ink: [where[ink] for where in found] for ink in found[0]}


def apart(made, dots_a_clip):
    """The clips in which no dot ever hides another, and none looks like another, with their labels."""
    clear = [i for i, clip in enumerate(made.frames) if all(len(positions(f)) == dots_a_clip for f in clip)]
    assert len(clear) > len(made.frames) / 3
    return [(made.frames[i], made.labels[i].item()) for i in clear]


def moves(track, size=16):
    """Rows and columns from each frame to the next, the short way round."""
    return [
        tuple((b - a + size // 2) % size - size // 2 for a, b in zip(here, there, strict=True))
        for here, there in itertools.pairwise(track)
    ]


# ------------------------------------------------------------------------------------------- what comes out


@quick
@given(st.integers(1, 30), st.integers(2, 6), st.integers(8, 12), st.integers(1, 5), st.integers(0, 1))
def test_shapes_types_and_range(count, frames, size, classes, rivals):
    digits = tuple(range(9, 8 - max(classes, 1 + rivals), -1))
    made = moving_digits(count, frames=frames, size=size, digits=digits, rivals=rivals)
    assert made.frames.shape == (count, frames, 1, size, size) and made.frames.dtype == torch.float32
    assert made.labels.shape == (count,) and made.labels.dtype == torch.int64
    assert made.frames.min() >= 0 and made.frames.max() <= 1
    assert made.labels.min() >= 0 and made.labels.max() < 4 * len(digits)
    assert made.digits == digits and all(type(digit) is int for digit in made.digits)


def test_frames_are_8_of_16_pixels_unless_told():
    assert moving_digits(3).frames.shape == (3, 8, 1, 16, 16) and moving_digits(3).digits == (0, 1, 2, 3)


def test_classes_name_digit_and_direction():
    made = ClipSet(torch.zeros(0), torch.zeros(0), (7, 2))
    assert DIRECTIONS == tuple(STEPS)
    assert made.classes == tuple(f"{digit} {direction}" for digit in (7, 2) for direction in STEPS)
    assert made.classes[1 * 4 + 1] == "2 left"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_makes_clips(name):
    made = moving_digits(20, **TASKS[name])
    assert made.frames.shape == (20, TASKS[name].get("frames", 8), 1, 16, 16)
    assert made.frames.isfinite().all() and made.frames.flatten(1).std(1).min() > 0


def test_tasks_are_the_plain_one_and_four_harder_ones():
    assert len(TASKS) == 5 and TASKS["plain"] == {} and all(TASKS[name] for name in TASKS if name != "plain")


@pytest.mark.usefixtures("dots")
@quick
@given(st.integers(1, 200), st.integers(1, 5), st.booleans())
def test_every_class_comes_equally_often(count, classes, late):
    found = moving_digits(count, digits=range(classes), frames=2, late=late).labels.bincount(minlength=4 * classes)
    assert len(found) == 4 * classes and found.max() - found.min() <= 1


@pytest.mark.usefixtures("dots")
def test_classes_come_in_random_order():
    labels = moving_digits(4000, frames=2).labels
    for told in (labels, labels % 4, labels // 4):
        # As often after its like as chance has it; labels in turn would never repeat.
        chance = 1 / (told.max().item() + 1)
        assert (told[1:] == told[:-1]).float().mean().item() == pytest.approx(chance, abs=0.04)


# ------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("options", TASKS.values(), ids=TASKS)
def test_same_seed_same_clips_and_another_seed_others(options):
    first, again, other = (moving_digits(40, seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.frames, other.frames) and not torch.equal(first.labels, other.labels)


@pytest.mark.usefixtures("dots")
def test_parts_and_seeds_draw_apart():
    drawn = [moving_digits(200, seed=seed, part=part).labels for seed in range(4) for part in ("train", "test")]
    for one, other in itertools.combinations(drawn, 2):
        assert (one == other).float().mean() < 0.3


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    moving_digits(20, rivals=1, bystanders=1, noise=0.1, occlusion=0.2, late=True)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


# ------------------------------------------------------------------------------------------ which pictures


@pytest.mark.parametrize("seed", [0, 1])
def test_training_and_test_clips_share_no_picture(seed):
    pixels, kinds = load_digits(return_X_y=True)
    number = {(picture / 16).astype(np.float32).tobytes(): n for n, picture in enumerate(pixels)}
    split = split_digits(1200, 597, seed=seed)
    used = {}
    for part, pool in (("train", split.train_images), ("test", split.test_images)):
        made = moving_digits(60, part=part, seed=seed, digits=(3, 8), size=10)
        shown = []
        for clip, label in zip(made.frames[:, 0, 0].numpy(), made.labels.tolist(), strict=True):
            rolled = [np.roll(clip, (-y, -x), (0, 1)) for y in range(10) for x in range(10)]
            # The digit is the only picture of the data set whose frame, rolled back, leaves nothing beside it.
            alone = [r[:8, :8].tobytes() for r in rolled if not r[8:].any() and not r[:, 8:].any()]
            matches = {number[raw] for raw in alone if raw in number}
            assert len(matches) == 1
            shown += matches
            assert kinds[shown[-1]] == (3, 8)[label // 4]
        own = {number[picture.numpy().tobytes()] for picture in pool}
        used[part] = set(shown)
        assert used[part] <= own and len(used[part]) > 30
    assert not used["train"] & used["test"]


@pytest.mark.usefixtures("dots")
def test_every_picture_and_every_place_is_drawn():
    made = moving_digits(4000, digits=(7, 2, 5), frames=2)
    first = [positions(frame) for frame in made.frames[:, 0]]
    assert all(len(where) == 1 for where in first)
    ink = torch.tensor([next(iter(where)) for where in first])
    assert torch.equal(kind(ink), torch.tensor((7, 2, 5))[made.labels // 4])
    _, often = ink.unique(return_counts=True)
    assert len(often) == 6 and often.min() > 4000 / 6 * 0.8
    places = torch.tensor([next(iter(where.values())) for where in first])
    for axis in (0, 1):
        assert places[:, axis].bincount(minlength=16).min() > 4000 / 16 * 0.7
    # Where a clip begins does not tell where it goes.
    for direction in range(4):
        assert (places[made.labels % 4 == direction].float().mean(0) - 7.5).abs().max() < 0.6


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_pictures_of_28_pixels_are_halved(monkeypatch, dataset, part):
    asked, pictures = [], torch.rand(2, 6, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def images(*args, **options):
        asked.append((args, options))
        kinds = torch.arange(6) // 3
        return SimpleNamespace(
            train_images=pictures[0], train_labels=kinds, test_images=pictures[1], test_labels=1 - kinds
        )

    monkeypatch.setattr(clips, "images", images)
    made = moving_digits(30, dataset=dataset, part=part, seed=5, digits=(0, 1), size=14)
    assert asked == [((dataset, 10_000, 2000), {"seed": 5})]
    halves = np.zeros((6, 14, 14))
    for n, y, x in np.ndindex(halves.shape):
        halves[n, y, x] = pictures[int(part == "test"), n, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
    for clip, label in zip(made.frames[:, 0, 0].numpy(), made.labels.tolist(), strict=True):
        first = 3 * (label // 4 if part == "train" else 1 - label // 4)
        # As large as the canvas: some roll of one of the class's three pictures is the whole frame.
        rolled = (np.roll(h, (y, x), (0, 1)) for h in halves[first : first + 3] for y in range(14) for x in range(14))
        assert min(np.abs(clip - r).max() for r in rolled) < 1e-6


# ---------------------------------------------------------------------------------------------- movement


@pytest.mark.parametrize("speed", [1, 2, 5])
def test_next_frame_is_rolled_as_the_label_says(speed):
    made = moving_digits(80, speed=speed, size=11, digits=range(10), frames=5)
    assert set(made.labels.tolist()) == set(range(40))
    for clip, label in zip(made.frames[:, :, 0], made.labels.tolist(), strict=True):
        rows, columns = step_of(label)
        for frame, after in itertools.pairwise(clip):
            assert torch.equal(after, torch.roll(frame, (speed * rows, speed * columns), (0, 1)))
            assert not torch.equal(after, frame)


@pytest.mark.usefixtures("dots")
@pytest.mark.parametrize("frames", [2, 5])
def test_late_movement_begins_at_any_frame_and_never_after_the_last(frames):
    made = moving_digits(400, frames=frames, late=True, speed=3)
    begins = []
    for clip, label in zip(made.frames, made.labels.tolist(), strict=True):
        rows, columns = step_of(label)
        (track,) = tracks(clip).values()
        begin = next(n for n, move in enumerate(moves(track)) if move != (0, 0))
        # Once it moves, it goes on.
        assert moves(track) == [(0, 0)] * begin + [(3 * rows, 3 * columns)] * (frames - 1 - begin)
        begins.append(begin + 1)
    found = torch.tensor(begins).bincount(minlength=frames)
    assert found[0] == 0 and len(found) == frames and found[1:].min() > 400 / (frames - 1) * 0.7


@pytest.mark.usefixtures("dots")
@pytest.mark.parametrize("bystanders", [1, 2])
@pytest.mark.parametrize("late", [False, True])
def test_bystander_stands_still_and_the_label_is_the_movers(bystanders, late):
    made = moving_digits(200, bystanders=bystanders, late=late, digits=(5, 1, 2, 9), speed=2)
    inks = []
    for clip, label in apart(made, 1 + bystanders):
        still = {ink: track for ink, track in tracks(clip).items() if len(set(track)) == 1}
        (mover,) = set(tracks(clip)) - set(still)
        rows, columns = step_of(label)
        assert set(moves(tracks(clip)[mover])) - {(0, 0)} == {(2 * rows, 2 * columns)}
        assert kind(torch.tensor(mover)) == (5, 1, 2, 9)[label // 4]
        inks += [kind(torch.tensor(ink)).item() for ink in still]
    # Whichever digits take part may stand there.
    assert set(inks) == {5, 1, 2, 9}


@pytest.mark.usefixtures("dots")
@pytest.mark.parametrize("late", [False, True])
def test_rivals_move_different_ways_and_the_later_digit_is_the_question(late):
    digits = (5, 1, 8, 2)
    made = moving_digits(2000, rivals=1, digits=digits, late=late, frames=4, speed=2)
    pairs, turns = torch.zeros(4, 4), torch.zeros(4, 4)
    for clip, label in apart(made, 2):
        found = {digits.index(kind(torch.tensor(ink))): track for ink, track in tracks(clip).items()}
        assert len(found) == 2 and max(found) == label // 4
        ways = {}
        for place, track in found.items():
            (way,) = set(moves(track)) - {(0, 0)}
            ways[place] = [(2 * rows, 2 * columns) for rows, columns in STEPS.values()].index(way)
        assert ways[max(found)] == label % 4 != ways[min(found)]
        # Both begin at once: when they begin does not tell the one asked for from the other.
        rests = {sum(move == (0, 0) for move in moves(track)) for track in found.values()}
        assert len(rests) == 1 and (late or rests == {0})
        pairs[max(found), min(found)] += 1
        turns[ways[max(found)], ways[min(found)]] += 1
    for later in range(1, 4):
        assert pairs[later].sum() / pairs.sum() == pytest.approx(1 / 3, abs=0.05)
        for other in range(later):
            assert pairs[later, other] / pairs[later].sum() == pytest.approx(1 / later, abs=0.08)
    assert ((turns / turns.sum() - (1 - torch.eye(4)) / 12).abs() < 0.025).all()


# ------------------------------------------------------------------------------------- occlusion and noise


@pytest.mark.parametrize(
    "size, share, hidden", [(16, 0.25, 4), (16, 0.5, 8), (10, 0.33, 3), (9, 0.3, 3), (16, 0.9, 14), (16, 0.99, 15)]
)
def test_a_bar_of_the_right_width_hides_the_same_columns_in_all_frames(monkeypatch, size, share, hidden):
    monkeypatch.setattr(clips, "_pictures", lambda *_: (torch.ones(4, size, size), torch.arange(4)))
    made = moving_digits(300, size=size, frames=3, occlusion=share)
    columns = made.frames[:, :, 0].amax(2)  # [B, T, size]
    assert torch.equal(columns, made.frames[:, :, 0].amin(2))
    assert torch.equal(columns, columns[:, :1].expand_as(columns))
    black = columns[:, 0] == 0
    assert (black.sum(1) == hidden).all() and (columns[:, 0][~black] == 1).all()
    # One bar, round the edge if need be: one column is black after an open one.
    assert ((black & ~black.roll(1, 1)).sum(1) == 1).all()
    assert (black & ~black.roll(1, 1)).sum(0).min() > 300 / size * 0.3


def test_without_occlusion_nothing_is_hidden(monkeypatch):
    monkeypatch.setattr(clips, "_pictures", lambda *_: (torch.ones(4, 16, 16), torch.arange(4)))
    assert (moving_digits(50).frames == 1).all()


def test_the_bar_also_hides_rivals_and_bystanders(monkeypatch):
    monkeypatch.setattr(clips, "_pictures", lambda *_: (torch.ones(4, 16, 16), torch.arange(4)))
    hidden = moving_digits(20, occlusion=0.25, rivals=1, bystanders=1).frames == 0
    assert (hidden.sum((1, 2, 3, 4)) == 8 * 16 * 4).all()


@pytest.mark.parametrize("std", [0.05, 0.3])
@pytest.mark.parametrize("options", [{}, {"occlusion": 0.25, "late": True, "rivals": 1, "bystanders": 1}])
def test_noise_is_gaussian_and_anew_in_every_pixel_and_frame(std, options):
    clean, noisy = (moving_digits(200, noise=noise, **options) for noise in (0.0, std))
    assert torch.equal(clean.labels, noisy.labels)
    noise = (noisy.frames - clean.frames)[:, :, 0] / std  # the rest of the clip is the same
    assert abs(noise.mean().item()) < 0.01
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    # Neither time, nor the clip, nor a neighbour tells a pixel's noise.
    for one, other in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        assert abs((one * other).mean().item()) < 0.01
    assert abs((noise[..., 1:] * noise[..., :-1]).mean().item()) < 0.01


# ------------------------------------------------------------------------------- against a naive reference


def painted(frame, picture, row, column):
    """Lay a picture over a frame, pixel by pixel; what leaves it on one side comes back on the other."""
    size = len(frame)
    for y, x in np.ndindex(picture.shape):
        at = (row + y) % size, (column + x) % size
        frame[at] = max(frame[at], picture[y, x])


def reference(count, pictures, kinds, dice, *, digits, frames, size, speed, noise, bystanders, rivals, occlusion, late):
    """The clips, one pixel after the other. It draws in the order of the helper: stored results hang on it."""
    shown = np.zeros((count, frames, size, size), np.float32)

    def lay(digit, direction, steps):
        chosen = [None] * count
        for place, number in enumerate(digits):
            pool = [n for n in range(len(kinds)) if kinds[n] == number]
            mine = [clip for clip in range(count) if digit[clip] == place]
            for clip, n in zip(mine, torch.randint(len(pool), (len(mine),), generator=dice).tolist(), strict=True):
                chosen[clip] = pictures[pool[n]].numpy()
        start = torch.randint(size, (count, 2), generator=dice).tolist()
        for clip in range(count):
            rows, columns = step_of(direction[clip])
            for t in range(frames):
                far = speed * steps[clip][t]
                painted(shown[clip, t], chosen[clip], start[clip][0] + far * rows, start[clip][1] + far * columns)

    order = torch.randperm(count, generator=dice).tolist()
    digit, direction = [n // 4 % len(digits) for n in order], [n % 4 for n in order]
    begin = torch.randint(0, frames - 1, (count, 1), generator=dice)[:, 0].tolist() if late else [0] * count
    steps = [[max(t - begin[clip], 0) for t in range(frames)] for clip in range(count)]
    if rivals:
        digit = torch.randint(1, len(digits), (count,), generator=dice).tolist()
        drawn = torch.rand(count, generator=dice).tolist()
        turn = torch.randint(1, 4, (count,), generator=dice).tolist()
        other = [int(share * later) for share, later in zip(drawn, digit, strict=True)]
        lay(other, [(d + t) % 4 for d, t in zip(direction, turn, strict=True)], steps)
    lay(digit, direction, steps)
    for _ in range(bystanders):
        lay(torch.randint(0, len(digits), (count,), generator=dice).tolist(), [0] * count, np.zeros_like(steps))
    if occlusion:
        left = torch.randint(0, size, (count, 1), generator=dice)[:, 0].tolist()
        for clip in range(count):
            for column in range(round(occlusion * size)):
                shown[clip, :, :, (left[clip] + column) % size] = 0
    if noise:
        shown = shown + noise * torch.randn(shown.shape, generator=dice).numpy()
    return shown, [4 * d + way for d, way in zip(digit, direction, strict=True)]


@settings(quick, max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "digits": st.sampled_from([(0, 1), (4, 2, 0), (3, 1, 2, 0)]),
            "frames": st.integers(2, 5),
            "size": st.integers(3, 6),
            "speed": st.integers(1, 4),
            "noise": st.sampled_from([0.0, 0.2]),
            "bystanders": st.integers(0, 2),
            "rivals": st.integers(0, 1),
            "occlusion": st.sampled_from([0.0, 0.3, 0.5]),
            "late": st.booleans(),
        }
    ),
    st.integers(1, 9),
    st.integers(0, 100),
    st.sampled_from(["train", "test"]),
)
def test_clips_are_those_of_a_naive_reference(options, count, seed, part):
    pictures, kinds = torch.rand(15, 3, 3, generator=torch.Generator().manual_seed(seed)), torch.arange(15) % 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "_pictures", lambda *_: (pictures, kinds))
        made = moving_digits(count, seed=seed, part=part, **options)
    dice = torch.Generator().manual_seed(1_000_003 * seed + {"train": 1, "test": 2}[part])
    frames, labels = reference(count, pictures, kinds, dice, **options)
    torch.testing.assert_close(made.frames[:, :, 0], torch.from_numpy(frames))
    assert made.labels.tolist() == labels


# --------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"count": 0}, "count is 0, but it must be a whole number of at least 1"),
        ({"count": 2.0}, "count is 2.0, but"),
        ({"count": True}, "count is True, but"),
        ({"frames": 1}, "frames is 1, but it must be a whole number of at least 2"),
        ({"frames": 8.0}, "frames is 8.0, but"),
        ({"speed": 0}, "speed is 0, but it must be a whole number of at least 1"),
        ({"speed": -1}, "speed is -1, but"),
        ({"speed": 0.5}, "speed is 0.5, but"),
        ({"bystanders": -1}, "bystanders is -1, but it must be a whole number of at least 0"),
        ({"bystanders": 1.5}, "bystanders is 1.5, but"),
        ({"rivals": 2}, r"rivals is 2, but it must be a whole number in \[0, 1\]"),
        ({"rivals": -1}, "rivals is -1, but"),
        ({"part": "valid"}, "part is 'valid', but it must be train or test"),
        ({"part": None}, "part is None, but it must be train or test"),
        ({"noise": -0.1}, "noise is -0.1, but a standard deviation of at least 0"),
        ({"noise": float("nan")}, "noise is nan, but"),
        ({"noise": float("inf")}, "noise is inf, but"),
        ({"occlusion": 1}, r"occlusion is 1, but a share of the canvas in \[0, 1\)"),
        ({"occlusion": -0.1}, "occlusion is -0.1, but"),
        ({"occlusion": float("nan")}, "occlusion is nan, but"),
        ({"digits": ()}, r"digits is \(\), but different ones are needed, at least 1"),
        ({"digits": (1, 2, 1)}, r"digits is \(1, 2, 1\), but different ones"),
        ({"digits": (1,), "rivals": 1}, r"digits is \(1,\), but different ones are needed, at least 2"),
        ({"digits": (3, 10)}, r"each of digits is 10, but it must be a whole number in \[0, 9\]"),
        ({"digits": (-1,)}, "each of digits is -1, but"),
        ({"digits": (1.0, 2)}, "each of digits is 1.0, but"),
        ({"digits": "01"}, "each of digits is '0', but"),
        ({"dataset": "cifar"}, "dataset is 'cifar', but it must be one of digits, mnist, fashion_mnist"),
        ({"size": 7}, "size is 7, but it must be a whole number of at least 8"),
        ({"size": 16.0}, "size is 16.0, but"),
    ],
)
def test_bad_input_is_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        moving_digits(**{"count": 4, **wrong})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_bad_seed_is_one_sentence(seed):
    with pytest.raises(ValueError, match=f"seed is {seed}, but"):
        moving_digits(4, seed=seed)


def test_whole_numbers_of_numpy_are_fine():
    whole = np.int64(4)
    made = moving_digits(whole, frames=whole, size=np.int64(9), speed=np.int64(1), digits=np.arange(2))
    assert torch.equal(made.frames, moving_digits(4, frames=4, size=9, digits=(0, 1)).frames)
