"""Language models of `transformers` behind the doors of ours: they say the same, and what quantizes one, quantizes both."""

import copy

import pytest
import torch

from helpers.lab.measures import perplexity
from helpers.models.gpt import SUBSETS, Gpt, PretrainedGpt, pretrained
from helpers.quantization.awq import awq
from helpers.quantization.gptaq import gptaq
from helpers.quantization.packing import PackedLinear, bits_per_weight, load_packed, pack_model, save_packed
from helpers.quantization.sequential import errors_by_depth, quantize_sequential

transformers = pytest.importorskip("transformers")

NAMES = [name for subset in SUBSETS for name in subset]
TOKENS = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is fetched: the switch for a fresh process, and the constant that one already started has read."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def llama(**more):
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 50,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
        }
        | more
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(params=[4, 2], ids=["as many keys as queries", "grouped queries"])
def theirs(request):
    return llama(num_key_value_heads=request.param)


@pytest.fixture
def ours(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return pretrained(tmp_path / "model")


def said(model, tokens=TOKENS):
    with torch.no_grad():
        out = model(tokens)
    return getattr(out, "logits", out)


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_it_says_what_theirs_says(ours, theirs):
    close(said(ours), said(theirs))
    assert said(ours).std() > 0.1 and said(ours).shape == (4, 12, 50)
    assert not ours.training and not any(weights.requires_grad for weights in ours.parameters())
    assert {weights.dtype for weights in ours.parameters()} == {torch.float32}
    assert ours.context == 64 and len(ours.blocks) == 2 and ours.subsets is SUBSETS


def test_a_later_token_never_changes_an_earlier_logit(ours):
    other = TOKENS.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 50
    close(said(ours)[:, :7], said(ours, other)[:, :7], 1e-6)


def test_the_courses_network_is_a_llama():
    net = Gpt(32, 2, 4, 48, 50).eval()
    for weights in net.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    other = llama(rms_norm_eps=1e-5)

    def renamed(name):
        return name if name.startswith("lm_head") else "model." + name.replace("blocks.", "layers.")

    other.load_state_dict({renamed(name): value for name, value in net.state_dict().items()})
    close(said(net), said(other))
    close(said(PretrainedGpt(other)), said(net))


def test_tied_embeddings_and_a_name_given_as_text(tmp_path):
    theirs = llama(tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path)
    close(said(pretrained(str(tmp_path))), said(theirs))


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2"])
def test_other_models_of_its_kind(kind):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    close(said(PretrainedGpt(theirs)), said(theirs))


def quantized(ours, bits=4, group=16, **more):
    full = copy.deepcopy(ours)

    def solver(weight, stats):
        return gptaq(weight, stats, bits, group_size=group)

    report = quantize_sequential(ours.blocks, SUBSETS, ours.embed(TOKENS), solver, ours.run_block, **more)
    return full, report


def test_it_is_quantized_and_packed(ours):
    full, report = quantized(ours)
    assert list(report.weights) == [f"{i}.{name}" for i in range(2) for name in NAMES]
    assert all(0 < error < 0.2 for error in report.errors)
    assert report.errors == errors_by_depth(ours, full, TOKENS)
    before = said(ours)
    assert 1e-3 < (before - said(full)).abs().max() and perplexity(ours, TOKENS) > 1
    pack_model(ours, report.weights)
    close(said(ours), before, 0.02)
    assert bits_per_weight(ours) == 4 + (16 + 4) / 16
    assert sum(isinstance(part, PackedLinear) for part in ours.modules()) == 2 * len(NAMES)


def test_activations_are_quantized(ours):
    full, report = quantized(ours, bits=8, activation_bits=8)
    assert all(0 < error < 0.01 for error in report.errors)
    assert not torch.equal(said(ours), said(full))


def test_it_is_saved_packed_and_loaded_again(ours, tmp_path):
    other, report = quantized(ours)
    pack_model(ours, report.weights)
    size = save_packed(ours, tmp_path / "packed.safetensors")
    bits = sum(part.stored_bits for part in ours.modules() if isinstance(part, PackedLinear))
    rest = 16 * (2 * 50 * 32 + 5 * 32)  # embedding, head and five norms
    header = int.from_bytes((tmp_path / "packed.safetensors").read_bytes()[:8], "little")
    assert 8 * (size - header - 8) <= bits + rest + 8 * 1024  # every tensor once
    load_packed(pack_model(other, report.weights), tmp_path / "packed.safetensors")
    close(said(other), said(ours), 0.02)


def test_scaling_and_clipping_leave_what_it_says_nearly_as_it_was(ours):
    full = copy.deepcopy(ours)
    awq(ours.blocks, SUBSETS, ours.embed(TOKENS), 8, 16, ours.run_block)
    assert any(
        not torch.equal(a.get_submodule(name).weight, b.get_submodule(name).weight)
        for a, b in zip(ours.blocks, full.blocks, strict=True)
        for name in NAMES
    )
    assert max(errors_by_depth(ours, full, TOKENS)) < 0.01
    _, report = quantized(ours)
    assert all(error < 0.2 for error in report.errors)


def test_a_folder_that_is_not_there_is_refused_in_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="is no folder: give the folder of a saved causal LM") as caught:
        pretrained(tmp_path / "nowhere")
    assert str(caught.value).startswith(str(tmp_path / "nowhere")) and caught.value.__cause__ is None


def test_a_name_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="nobody/nothing is neither a folder with a causal LM nor a name on the hub"):
        pretrained("nobody/nothing")


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("no model")
    with pytest.raises(ValueError, match="is neither a folder with a causal LM"):
        pretrained(tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="GPT2LMHeadModel has no blocks of LLaMA's kind .* take a Llama, Mistral or Qwen2"
    ):
        pretrained(tmp_path)
