"""A real text-to-image pipeline behind the protocol of `tiny_flow.Sampler`, and a style token learned for it.

    sampler = DiffusionSampler.from_pretrained("<folder or name on the hub>", ["hamster", "teapot"], side=32)
    sampler.sample(labels, guidance=3.5)

Needs the extra `diffusion`. Nothing of the pipeline is changed: while a style is asked for, a hook puts its token where the
prompt has the placeholder.

Sources: Y. Li et al., arXiv 2312.05272 (prompts, guidance 3.5); R. Gal et al., "An Image is Worth One Word", ICLR 2023.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.data.checks import whole

TEMPLATES = ("a photo of a {}", "a photo of a small {}", "a photo of a large {}", "a close-up photo of a {}")
STYLED = "{} in the style of {}"
PLACEHOLDER, START = "*", "photo"
"""The word of a prompt that a style takes the place of, and the word that a style starts as."""


class DiffusionSampler:
    """Draws classes by their names.

    Args:
        pipeline: a StableDiffusionPipeline, or one with the same parts: tokenizer, text_encoder, unet, vae, scheduler.
        classes: their names; label i is drawn as the i-th.
        side: pixels a side of what is handed out.
        colour: three channels; else their mean.
        templates: of prompts, taken in turn within each class; each with one {}.
        steps: of a sampler.
        size: pictures at a time.
        placeholder, start: single tokens of the tokenizer.

    Raises:
        ValueError: no classes, a template without {}, or a placeholder that is not one token.
    """

    def __init__(
        self,
        pipeline,
        classes: Sequence[str],
        *,
        side: int = 224,
        colour: bool = True,
        templates: Sequence[str] = TEMPLATES,
        steps: int = 25,
        size: int = 8,
        placeholder: str = PLACEHOLDER,
        start: str = START,
    ) -> None:
        if isinstance(classes, str):
            raise ValueError(f"classes is the text {classes!r}, but it must be a list of names.")
        if not classes or not templates or any(template.count("{}") != 1 for template in templates):
            raise ValueError(
                f"there are {len(classes)} classes and the templates are {list(templates)}: give at least one name, and "
                "templates with one {} each."
            )
        self.pipeline, self.classes, self.templates = pipeline, list(classes), list(templates)
        self.side, self.colour, self.steps, self.size = (
            whole("side", side),
            colour,
            whole("steps", steps),
            whole("size", size),
        )
        self.placeholder, self._place, self._start = placeholder, self._token(placeholder), self._token(start)
        pipeline.set_progress_bar_config(disable=True)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls, name: str, classes: Sequence[str], *, device: str = "cpu", **settings
    ) -> "DiffusionSampler":
        """From a folder that holds a pipeline, or by its name on the hub, where it is downloaded from once.

        Stable Diffusion 1 and 2 have the parts that are needed; later families have others.

        Args:
            name: folder (with a model_index.json), or name on the hub.
            classes: their names.
            device: where it runs.
            settings: of the sampler.

        Raises:
            ModuleNotFoundError: diffusers is not installed; says how to install it.
            ValueError: no such folder, and no such name that could be reached.
        """
        try:
            from diffusers import StableDiffusionPipeline
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{error.name} is not installed, but a text-to-image pipeline needs it: pip install -e '.[diffusion]'."
            ) from None
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(name), safety_checker=None, requires_safety_checker=False
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{str(name)!r} could not be loaded: give a folder that holds a Stable Diffusion pipeline (with a "
                "model_index.json), or its name on the Hugging Face hub, which needs a network the first time."
            ) from error
        return cls(pipeline.to(device), classes, **settings)

    @property
    def unspecified(self) -> Tensor:
        """The token that a style starts as: that of an ordinary word, [d]."""
        return self.pipeline.text_encoder.get_input_embeddings().weight[self._start].detach().clone()

    def prompts(self, labels: Tensor, styled: bool = False) -> list[str]:
        """What is asked for, a text a label; with the placeholder if in a style.

        Raises:
            ValueError: no labels, or classes that there are not.
        """
        if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(self.classes):
            raise ValueError(
                f"the prompts are {labels.unique().tolist()}, but must be at least one of the classes 0 to "
                f"{len(self.classes) - 1}."
            )
        before, texts = Counter(), []
        for label in labels.tolist():  # each class goes through the templates, beginning with another one
            texts.append(self.templates[(label + before[label]) % len(self.templates)].format(self.classes[label]))
            before[label] += 1
        return [STYLED.format(text, self.placeholder) for text in texts] if styled else texts

    @torch.no_grad()
    def sample(self, labels: Tensor, *, style: Tensor | None = None, guidance: float = 3.5, seed: int = 0) -> Tensor:
        """See `Sampler.sample`: float32 [n, 1 or 3, side, side] in [0, 1]. Each picture has a noise of its own.

        Raises:
            ValueError: no labels, classes that there are not, or a token of another length.
        """
        prompts, found = self.prompts(labels, style is not None), []
        seeds = torch.randint(2**62, (len(prompts),), generator=torch.Generator().manual_seed(seed)).tolist()
        with self._in_style(style):
            for begin in range(0, len(prompts), self.size):
                part = prompts[begin : begin + self.size]
                noises = [torch.Generator().manual_seed(own) for own in seeds[begin : begin + self.size]]
                made = self.pipeline(
                    prompt=part,
                    guidance_scale=guidance,
                    num_inference_steps=self.steps,
                    generator=noises,
                    output_type="pt",
                )
                found.append(self._handed_out(made.images))
        return torch.cat(found)

    def learn_style(
        self, x: Tensor, y: Tensor, *, steps: int = 1000, lr: float = 5e-3, size: int = 4, seed: int = 0
    ) -> Tensor:
        """The one token that explains a few real pictures best, by the usual denoising loss; all else stays as it is.

        Args:
            x, y: real pictures [k, 1 or 3, side, side] in [0, 1] and their classes [k].
            steps, lr, size: of Adam, pictures a step.
            seed: of batches, times and noise.

        Returns:
            The token, [d].

        Raises:
            ValueError: no pictures, another number of classes than of pictures, or a scheduler that predicts neither noise
                nor velocity.
        """
        if not len(x) or len(x) != len(y):
            raise ValueError(
                f"there are {len(x)} real pictures and {len(y)} classes, but a style needs at least one of each."
            )
        whole("steps", steps), whole("size", size)
        pipe, generator = self.pipeline, torch.Generator().manual_seed(seed)
        kind = pipe.scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"the scheduler predicts {kind!r}, but it must be 'epsilon' or 'v_prediction'.")
        device = pipe.unet.device
        latents, prompts = self._latents(x.to(device)), self.prompts(y, styled=True)
        token = self.unspecified.requires_grad_()
        adam = torch.optim.Adam([token], lr=lr)
        for _ in range(steps):
            which = torch.randint(len(x), (size,), generator=generator)
            t = torch.randint(pipe.scheduler.config.num_train_timesteps, (size,), generator=generator).to(device)
            noise = torch.randn(latents[which].shape, generator=generator).to(device)
            with self._in_style(token):
                said = pipe.encode_prompt([prompts[i] for i in which], device, 1, False)[0]
            noisy = pipe.scheduler.add_noise(latents[which], noise, t)
            aim = noise
            if kind == "v_prediction":
                aim = pipe.scheduler.get_velocity(latents[which], noise, t)
            loss = F.mse_loss(pipe.unet(noisy, t, encoder_hidden_states=said).sample, aim)
            adam.zero_grad()
            loss.backward(inputs=[token])
            adam.step()
        return token.detach()

    @torch.no_grad()
    def _latents(self, x: Tensor) -> Tensor:
        pipe = self.pipeline
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        wide = F.interpolate(x.expand(-1, 3, -1, -1), (side, side), mode="bilinear", antialias=True)
        return pipe.vae.encode(2 * wide - 1).latent_dist.mean * pipe.vae.config.scaling_factor

    def _handed_out(self, pictures: Tensor) -> Tensor:
        small = F.interpolate(pictures.float(), (self.side, self.side), mode="bilinear", antialias=True).clamp(0, 1)
        return small if self.colour else small.mean(1, keepdim=True)

    def _token(self, word: str) -> int:
        found = self.pipeline.tokenizer(word, add_special_tokens=False).input_ids
        if len(found) != 1:
            raise ValueError(
                f"{word!r} is {len(found)} tokens of this tokenizer, but it must be one: choose another word."
            )
        return found[0]

    @contextmanager
    def _in_style(self, style: Tensor | None) -> Iterator[None]:
        embedding = self.pipeline.text_encoder.get_input_embeddings()
        if style is None:
            yield
            return
        if style.shape != embedding.weight.shape[1:]:
            raise ValueError(f"style is {tuple(style.shape)}, but a token here is {tuple(embedding.weight.shape[1:])}.")

        def put(_module, inputs, output):
            here = (inputs[0] == self._place).unsqueeze(-1)
            return torch.where(here, style.to(output), output)

        hook = embedding.register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()
