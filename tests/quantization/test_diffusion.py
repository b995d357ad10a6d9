"""A text-to-image pipeline behind the sampler's door: a tiny random one, so nothing is fetched and nothing looks good."""

import copy
import sys

import pytest
import torch
from torch.nn import functional as F

from helpers.quantization.diffusion import STYLED, TEMPLATES, DiffusionSampler

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

CLASSES = ["hamster", "teapot"]
LABELS = torch.tensor([0, 1, 0, 1, 1])
WORDS = ["a", "photo", "of", "in", "the", "style", "small", "large", "close", "-", "up", *CLASSES, "*"]
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is fetched: the switch for a fresh process, and the constant that one already started has read."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def words():
    """A tokenizer to which "photo", "large" and "*" are one token each; it can spell what else is asked."""
    letters = sorted(set("".join(WORDS)) | set("qz"))
    vocabulary, merges = {}, []
    for token in [BEGIN, END, *letters, *(letter + "</w>" for letter in letters)]:
        vocabulary.setdefault(token, len(vocabulary))
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (pair := (parts[0], parts[1])) not in merges:
                merges.append(pair)
            parts = ["".join(pair), *parts[2:]]
            vocabulary.setdefault(parts[0], len(vocabulary))
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=20)


def scheduler(**more):
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **more)


@pytest.fixture(scope="module")
def made():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = words()
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=8,
            attention_head_dim=8,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=[16, 32],
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            norm_num_groups=8,
        )
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=20,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        # Random embeddings are so small that every prompt is nearly the same: these can be told apart.
        text.get_input_embeddings().weight.data.normal_()
        return diffusers.StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


@pytest.fixture
def pipe(made):
    """The shared one, with a scheduler of its own; that nothing else of it changes is what the tests say."""
    made.scheduler = scheduler()
    return made


@pytest.fixture
def sampler(pipe):
    return DiffusionSampler(pipe, CLASSES, side=8, colour=False, steps=3)


def parts(pipe):
    return {
        (name, key): value.clone()
        for name in ("unet", "vae", "text_encoder")
        for key, value in getattr(pipe, name).state_dict().items()
    }


def unchanged(pipe, before):
    now = parts(pipe)
    return now.keys() == before.keys() and all(torch.equal(value, before[key]) for key, value in now.items())


def hooks(pipe):
    embedding = pipe.text_encoder.get_input_embeddings()
    return len(embedding._forward_hooks) + len(embedding._forward_pre_hooks)


def with_token(pipe, word, token):
    """The text encoder that has this embedding for a word: what the hook pretends, done for real on a copy."""
    encoder = copy.deepcopy(pipe.text_encoder)
    place = pipe.tokenizer(word, add_special_tokens=False).input_ids[0]
    encoder.get_input_embeddings().weight.data[place] = token
    return encoder


# --------------------------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize(("colour", "channels"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("side", [5, 8, 16, 24])
def test_pictures_of_any_side_in_grey_or_colour(pipe, colour, channels, side):
    found = DiffusionSampler(pipe, CLASSES, side=side, colour=colour, steps=2).sample(LABELS[:2])
    assert found.shape == (2, channels, side, side) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad
    assert found.std() > 0.01


def test_grey_is_the_mean_of_the_colours(pipe, sampler):
    colour = DiffusionSampler(pipe, CLASSES, side=8, steps=3).sample(LABELS)
    torch.testing.assert_close(sampler.sample(LABELS), colour.mean(1, keepdim=True))


def test_same_seed_same_pictures(sampler):
    one = sampler.sample(LABELS, seed=4)
    torch.randn(3)
    state = torch.get_rng_state()
    assert torch.equal(one, sampler.sample(LABELS, seed=4))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, sampler.sample(LABELS, seed=50))
    assert not torch.equal(one[3], one[4])  # one class, but each with a noise of its own


def test_it_does_not_matter_how_many_are_drawn_at_a_time(pipe, sampler):
    for size in (1, 2, 5):
        other = DiffusionSampler(pipe, CLASSES, side=8, colour=False, steps=3, size=size)
        torch.testing.assert_close(other.sample(LABELS, seed=2), sampler.sample(LABELS, seed=2), rtol=0, atol=1e-4)


def noises(seed, count):
    """The generators of a sampler's pictures: one each, its seed drawn."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed))
    return [torch.Generator().manual_seed(int(own)) for own in seeds]


def test_neighbouring_seeds_share_no_picture(sampler):
    same = torch.tensor([0, 0, 0])  # the templates change from place to place, the class does not
    sampler.templates = sampler.templates[:1]
    first, second = sampler.sample(same, seed=0), sampler.sample(same, seed=1)
    assert all((one - other).abs().max() > 1e-4 for one in first for other in second)


def test_it_is_what_the_pipeline_draws_for_these_prompts(pipe, sampler):
    found = sampler.sample(LABELS[:2], guidance=2.0, seed=3)
    theirs = pipe(
        prompt=["a photo of a hamster", "a photo of a small teapot"],
        guidance_scale=2.0,
        num_inference_steps=3,
        generator=noises(3, 2),
        output_type="np",
    ).images
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2)
    assert theirs.shape == (2, 3, 16, 16)
    small = F.interpolate(theirs, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
    torch.testing.assert_close(found, small.mean(1, keepdim=True), rtol=0, atol=1e-5)


def test_class_and_guidance_change_the_picture(sampler):
    one, other = sampler.sample(torch.tensor([0]), seed=1), sampler.sample(torch.tensor([1]), seed=1)
    assert (one - other).abs().max() > 1e-3
    assert (sampler.sample(torch.tensor([0]), guidance=1.0, seed=1) - one).abs().max() > 1e-3


def test_templates_are_taken_in_turn_within_each_class(sampler):
    assert sampler.prompts(LABELS) == [
        TEMPLATES[0].format("hamster"),
        TEMPLATES[1].format("teapot"),
        TEMPLATES[1].format("hamster"),
        TEMPLATES[2].format("teapot"),
        TEMPLATES[3].format("teapot"),
    ]
    assert sampler.prompts(LABELS[:1], styled=True) == [STYLED.format("a photo of a hamster", "*")]
    other = DiffusionSampler(sampler.pipeline, CLASSES, templates=["{} up close"], placeholder="-")
    assert other.prompts(LABELS[:2], styled=True) == [f"{name} up close in the style of -" for name in CLASSES]
    # Classes in turn, as pools are drawn: nobody is tied to one template.
    asked = sampler.prompts(torch.arange(16) % 2)
    assert {text for text in asked if "hamster" in text} == {template.format("hamster") for template in TEMPLATES}
    assert {text for text in asked if "teapot" in text} == {template.format("teapot") for template in TEMPLATES}


# -------------------------------------------------------------------------------------------------------------- styles


def test_a_style_changes_the_pictures(sampler):
    style = torch.randn(32)
    found, plain = sampler.sample(LABELS, style=style), sampler.sample(LABELS)
    assert (found - plain).abs().max() > 1e-3
    assert (found - sampler.sample(LABELS, style=torch.randn(32))).abs().max() > 1e-3
    assert torch.equal(found, sampler.sample(LABELS, style=style))
    assert torch.equal(plain, sampler.sample(LABELS))  # nothing of the style stays behind


def test_a_style_is_an_embedding_of_the_placeholder(sampler, pipe, monkeypatch):
    style = torch.randn(32)
    found = sampler.sample(LABELS[:2], style=style, seed=1)
    prompts = sampler.prompts(LABELS[:2], styled=True)
    monkeypatch.setattr(pipe, "text_encoder", with_token(pipe, "*", style))
    theirs = pipe(
        prompt=prompts,
        guidance_scale=3.5,
        num_inference_steps=3,
        generator=noises(1, 2),
        output_type="pt",
    ).images
    small = F.interpolate(theirs, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
    torch.testing.assert_close(found, small.mean(1, keepdim=True), rtol=0, atol=1e-5)


def test_the_unspecified_style_is_that_of_an_ordinary_word(sampler, pipe):
    place = pipe.tokenizer("photo", add_special_tokens=False).input_ids[0]
    weight = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(sampler.unspecified, weight[place]) and not sampler.unspecified.requires_grad
    before = weight.clone()
    sampler.unspecified.zero_()  # a copy: nobody can write into the table through it
    assert torch.equal(weight, before)
    other = DiffusionSampler(pipe, CLASSES, start="large")
    assert not torch.equal(other.unspecified, sampler.unspecified)


def test_sampling_in_a_style_leaves_the_pipeline_as_it_was(sampler, pipe):
    before = parts(pipe)
    sampler.sample(LABELS, style=torch.randn(32))
    assert unchanged(pipe, before) and hooks(pipe) == 0


def boom(*_, **__):
    raise RuntimeError("out of memory")


def test_hooks_are_removed_even_when_the_pipeline_raises(sampler, pipe, monkeypatch):
    style, before = torch.randn(32), parts(pipe)
    plain = sampler.sample(LABELS)
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe.unet), "forward", boom)
        with pytest.raises(RuntimeError, match="out of memory"):
            sampler.sample(LABELS, style=style)
    assert hooks(pipe) == 0
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "encode_prompt", boom)
        with pytest.raises(RuntimeError, match="out of memory"):
            sampler.learn_style(plain, LABELS, steps=2)
    assert hooks(pipe) == 0 and unchanged(pipe, before)
    assert torch.equal(plain, sampler.sample(LABELS))


# ----------------------------------------------------------------------------------------------------- learning a style


def pictures():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def fixed_batch(sampler, x, y, token):
    """The denoising loss of a token on noises that stay the same, with the embedding put in for real."""
    pipe, g = sampler.pipeline, torch.Generator().manual_seed(3)
    encoder = with_token(pipe, "*", token)
    wide = F.interpolate(x.expand(-1, 3, -1, -1), (16, 16), mode="bilinear", antialias=True)
    latents = pipe.vae.encode(2 * wide - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    latents, prompts = latents.repeat(8, 1, 1, 1), sampler.prompts(y, styled=True) * 8
    t, noise = torch.randint(1000, (len(latents),), generator=g), torch.randn(latents.shape, generator=g)
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=20, return_tensors="pt").input_ids
    said = encoder(ids)[0]
    scheduler = pipe.scheduler
    aim = scheduler.get_velocity(latents, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
    return F.mse_loss(pipe.unet(scheduler.add_noise(latents, noise, t), t, said).sample, aim).item()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_learned_style_explains_the_pictures_better(sampler, pipe, kind):
    pipe.scheduler = scheduler(prediction_type=kind)
    token = sampler.learn_style(pictures(), LABELS, steps=40, lr=0.05)
    before, after = (fixed_batch(sampler, pictures(), LABELS, style) for style in (sampler.unspecified, token))
    assert after < before


def test_learning_leaves_all_else_as_it_was_to_the_bit(sampler, pipe):
    before = parts(pipe)
    token = sampler.learn_style(pictures(), LABELS, steps=4)
    assert token.shape == (32,) and not token.requires_grad
    assert (token - sampler.unspecified).abs().max() > 1e-3
    assert unchanged(pipe, before) and hooks(pipe) == 0
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not part.training
        assert all(weight.grad is None and not weight.requires_grad for weight in part.parameters())


def test_same_seed_same_style(sampler):
    one, two, other = (sampler.learn_style(pictures(), LABELS, steps=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_grey_pictures_are_pictures_of_three_equal_colours(sampler):
    x = pictures()
    one, other = (sampler.learn_style(part, LABELS, steps=2) for part in (x, x.expand(-1, 3, -1, -1)))
    assert torch.equal(one, other)


def test_what_was_learned_can_be_drawn(sampler):
    token = sampler.learn_style(pictures(), LABELS, steps=2)
    start = sampler.sample(LABELS, style=sampler.unspecified)
    assert not torch.equal(sampler.sample(LABELS, style=token), start)


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_gives_the_same_pictures(sampler, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "tiny")
    again = DiffusionSampler.from_pretrained(str(tmp_path / "tiny"), CLASSES, side=8, colour=False, steps=3)
    style = torch.randn(32)
    for which in (None, style):
        torch.testing.assert_close(again.sample(LABELS, style=which), sampler.sample(LABELS, style=which))
    assert torch.equal(again.unspecified, sampler.unspecified)


def test_without_diffusers_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match=r"diffusers is not installed.*pip install -e '\.\[diffusion\]'"):
        DiffusionSampler.from_pretrained(str(tmp_path), CLASSES)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("classes", "more", "says"),
    [
        ([], {}, "there are 0 classes"),
        (CLASSES, {"templates": []}, "templates are"),
        (CLASSES, {"templates": ["a photo"]}, "one {} each"),
        (CLASSES, {"templates": ["a photo of a {}", "{} and {}"]}, "one {} each"),
        (CLASSES, {"placeholder": "qz"}, "'qz' is 2 tokens of this tokenizer, but it must be one"),
        (CLASSES, {"placeholder": ""}, "'' is 0 tokens"),
        (CLASSES, {"start": "large photo"}, "'large photo' is 2 tokens"),
        (CLASSES, {"side": 0}, "side is 0"),
        (CLASSES, {"steps": 0}, "steps is 0"),
        (CLASSES, {"size": 1.5}, "size is 1.5"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(pipe, classes, more, says):
    with pytest.raises(ValueError, match=says):
        DiffusionSampler(pipe, classes, **more)


@pytest.mark.parametrize(
    ("labels", "style", "says"),
    [
        (LABELS[:0], None, "at least one of the classes 0 to 1"),
        (torch.tensor([2]), None, "classes 0 to 1"),
        (torch.tensor([-1]), None, "classes 0 to 1"),
        (LABELS, torch.zeros(31), r"style is \(31,\), but a token here is \(32,\)"),
        (LABELS, torch.zeros(5, 32), "a token here is"),
    ],
)
def test_what_cannot_be_drawn_is_refused(sampler, pipe, labels, style, says):
    with pytest.raises(ValueError, match=says):
        sampler.sample(labels, style=style)
    assert hooks(pipe) == 0


@pytest.mark.parametrize(
    ("x", "y", "more", "says"),
    [
        (0, 0, {}, "there are 0 real pictures and 0 classes"),
        (2, 1, {}, "there are 2 real pictures and 1 classes"),
        (2, 2, {"steps": 0}, "steps is 0"),
        (2, 2, {"size": 0}, "size is 0"),
    ],
)
def test_a_style_that_cannot_be_learned_is_refused(sampler, x, y, more, says):
    with pytest.raises(ValueError, match=says):
        sampler.learn_style(pictures()[:x], LABELS[:y], **more)


def test_pictures_of_a_class_that_there_is_not_are_refused(sampler):
    with pytest.raises(ValueError, match="classes 0 to 1"):
        sampler.learn_style(pictures(), LABELS + 1)


def test_what_cannot_be_loaded_is_one_sentence(tmp_path):
    for name in (tmp_path / "missing", tmp_path):  # no folder, and a folder without a pipeline
        with pytest.raises(
            ValueError, match="could not be loaded: give a folder that holds a Stable Diffusion pipeline"
        ):
            DiffusionSampler.from_pretrained(name, CLASSES)


def test_a_text_is_no_list_of_classes(pipe):
    with pytest.raises(ValueError, match="classes is the text 'hamster', but it must be a list of names"):
        DiffusionSampler(pipe, "hamster")


def test_a_scheduler_that_predicts_something_else_is_refused(pipe, sampler):
    found = sampler.sample(LABELS[:2])
    pipe.scheduler.register_to_config(prediction_type="sample")
    try:
        with pytest.raises(ValueError, match="the scheduler predicts 'sample', but it must be 'epsilon' or"):
            sampler.learn_style(found, LABELS[:2], steps=1)
    finally:
        pipe.scheduler.register_to_config(prediction_type="epsilon")
