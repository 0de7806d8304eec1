"""Rotated digits and the vision transformer that comes with the suite: what is split, what it knows, and what adapters teach it."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench.runs import run
from linalg import InputError
from optimizers import Adam
from parameterizations import Full, LoRA
from problems._digits import digits
from problems._pretrained.digits import MEAN, NET, STD, WEIGHTS, pretrained, split, untrained
from problems.image_classification import ImageClassification

pytest.importorskip("sklearn")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SMALL = {"examples": 20, "validation": 10, "test": 12}
UPRIGHT = ImageClassification(angle=0, test=700)


def upright(part):
    """Which of all digits are in a part that is not turned."""
    known = {tuple(image.flatten().tolist()): place for place, image in enumerate((digits()[0] * 2 - 1).float())}
    return [known[tuple(image.flatten().tolist())] for image in part["pixel_values"]]


def adapted(problem, parameterization=None, **options):
    options = {"lr": [0.01], "seeds": [0, 1, 2], "steps": 60, "probes": "none"} | options
    return run(problem, parameterization or LoRA(rank=4), Adam(), **options)


# Data


def test_the_parts_share_no_image_with_each_other_or_with_pretraining():
    parts = ImageClassification(angle=0).draw(0).parts
    places = [upright(part) for part in parts.values()]
    everything = [place for part in places for place in part] + split()[0].tolist()
    assert [len(part) for part in places] == [64, 128, 400]
    assert len(set(everything)) == len(everything)
    for part, chosen in zip(parts.values(), places, strict=True):
        assert torch.equal(part["labels"], digits()[1][chosen].argmax(-1))


def test_pretraining_saw_half_of_the_digits_and_the_split_covers_all():
    seen, other = split()
    assert (len(seen), len(other)) == (900, 897)
    assert sorted([*seen.tolist(), *other.tolist()]) == list(range(1797))


def test_a_seed_decides_the_parts_and_the_test_is_the_same_for_all():
    first, again, other = (ImageClassification().draw(seed).parts for seed in (3, 3, 4))
    for name in first:
        assert torch.equal(first[name]["pixel_values"], again[name]["pixel_values"])
        assert torch.equal(first[name]["pixel_values"], other[name]["pixel_values"]) == (name == "test")


def test_a_quarter_turn_turns_every_image():
    still, turned = (ImageClassification(angle=angle, **SMALL).draw(0).parts["test"]["pixel_values"] for angle in (0, 90))
    torch.testing.assert_close(turned, still.rot90(1, (-2, -1)))


def test_batches_are_epochs_without_gaps():
    task = ImageClassification(batch_size=8, **SMALL).draw(0)
    keys = {tuple(image.flatten().tolist()): row for row, image in enumerate(task.parts["train"]["pixel_values"])}
    batches = [task.batch(step) for step in range(5)]  # 40 images, two epochs of 20
    seen = [keys[tuple(image.flatten().tolist())] for batch in batches for image in batch["pixel_values"]]
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20] != seen[20:]
    assert all(batch["pixel_values"].shape == (8, 1, 8, 8) and batch["labels"].shape == (8,) for batch in batches)


# The model


def test_the_weights_are_below_a_megabyte():
    assert WEIGHTS.stat().st_size < 2**20


@torch.no_grad()
def test_the_pretrained_model_knows_upright_digits_and_a_random_one_does_not():
    task, random = UPRIGHT.draw(0), ImageClassification(angle=0, test=700, weights="random").draw(0)
    known, guessed = task.test(task.model().eval()), random.test(random.model().eval())
    assert known["test_error"] < 0.1
    assert known["test_loss"] < 0.5 < 2 < guessed["test_loss"]  # an even guess costs 2.3
    assert guessed["test_error"] > 0.7


@torch.no_grad()
def test_it_is_wrong_about_turned_digits_more_often_than_not_yet_better_than_by_chance():
    task = ImageClassification().draw(0)
    assert 0.5 < task.test(task.model().eval())["test_error"] < 0.7


def test_every_lane_has_a_model_of_its_own():
    task = ImageClassification(**SMALL).draw(0)
    first, second = task.model(), task.model()
    assert all(one is not other for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_losses_are_means_lane_by_lane():
    task = ImageClassification(**SMALL).draw(0)
    model, batches = task.model().eval(), [task.batch(step) for step in (0, 1)]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    alone = torch.cat([task.losses(model, batch) for batch in batches])
    torch.testing.assert_close(task.losses(model, joined, lanes=2), alone)


# Runs


def test_adapting_lowers_the_test_error_on_every_seed():
    done = adapted(ImageClassification(evaluations=2))
    before = done.curves[done.curves.step == 0].set_index("seed").test_error
    after = done.lanes.set_index("seed").headline
    assert done.lanes.status.eq("ok").all()
    assert (after < before - 0.15).all()
    assert before.nunique() == 1  # the same model and the same test images


@pytest.mark.parametrize(("head", "more"), [("frozen", 0), ("trained", 10 * 64 + 10)])
def test_a_head_trains_only_where_it_should(head, more):
    done = adapted(ImageClassification(head=head, **SMALL), seeds=[0], steps=1)
    assert done.cost["parameters"] == 4 * 2 * 4 * (64 + 64) + more  # layers, query and value, rank, both sides


def test_full_fine_tuning_and_double_precision_run():
    done = adapted(ImageClassification(**SMALL), Full(), lr=[1e-3], seeds=[0], steps=2, dtype="float64")
    assert done.lanes.status.eq("ok").all()


# Other models and data


@pytest.fixture
def folder(tmp_path):
    """The model that comes with the suite, as others are saved."""
    pretrained().save_pretrained(tmp_path / "vit")
    size = {"height": NET["image_size"], "width": NET["image_size"]}
    transformers.ViTImageProcessorPil(size=size, image_mean=[MEAN], image_std=[STD]).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_saved_folder_is_the_same_model_and_its_head_trains(folder):
    own, saved = ImageClassification(**SMALL), ImageClassification(model=str(folder), **SMALL)
    one, other = own.draw(0), saved.draw(0)
    with torch.no_grad():
        first, second = one.test(one.model().eval()), other.test(other.model().eval())
    assert second["test_loss"] == pytest.approx(first["test_loss"], rel=0.01)  # pixels are bytes there
    assert (one.head, other.head) == ((), ("classifier",))
    assert own.fingerprint() != saved.fingerprint()


def test_a_folder_without_weights_of_its_own_is_untrained(folder):
    task = ImageClassification(model=str(folder), weights="random", **SMALL).draw(0)
    assert not torch.equal(task.model().classifier.weight, pretrained().classifier.weight)


def test_the_fingerprint_is_of_the_weights_that_come_with_the_suite(monkeypatch, tmp_path):
    before = ImageClassification().fingerprint()
    (tmp_path / "other.safetensors").write_bytes(WEIGHTS.read_bytes() + b" ")
    monkeypatch.setattr("problems.image_classification.WEIGHTS", tmp_path / "other.safetensors")
    assert ImageClassification().fingerprint() != before


class Rows(list):
    """What the package datasets gives, as far as it is used."""

    column_names = ("img", "label")
    features = {"label": SimpleNamespace(num_classes=3)}  # noqa: RUF012  # nobody changes it


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set: gray pictures, darker by class, sorted by class."""
    image = pytest.importorskip("PIL.Image")

    def load_dataset(name, configuration, split):
        if name != "some/grays":
            raise ConnectionError("no such data set")
        count = {"train": 40, "test": 15}[split]
        labels = [3 * row // count for row in range(count)]
        return Rows(
            {"img": image.new("RGB", (20, 16), (80 * label, 80 * label, row)), "label": label} for row, label in enumerate(labels)
        )

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    ours = sys.modules["problems.image_classification"]
    ours.hub_rows.cache_clear()
    yield
    ours.hub_rows.cache_clear()


@pytest.mark.usefixtures("hub")
def test_a_hubs_images_are_cut_into_parts_and_the_head_has_their_classes(folder):
    for model in ("digits_vit", str(folder)):
        problem = ImageClassification(model=model, data="some/grays", head="trained", **SMALL)
        parts = problem.draw(0).parts
        assert {name: tuple(part["pixel_values"].shape) for name, part in parts.items()} == {
            "train": (20, 1, 8, 8),
            "validation": (10, 1, 8, 8),
            "test": (12, 1, 8, 8),
        }
        assert set(parts["test"]["labels"].tolist()) == {0, 1, 2}
        heads = [problem.draw(seed).model().classifier.weight for seed in (0, 0, 1)]
        assert heads[0].shape == (3, 64)
        assert torch.equal(heads[0], heads[1])
        assert not torch.equal(heads[0], heads[2])


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("options", "said"),
    [({"data": "some/others"}, "no such data set"), ({"data": "some/grays", "test": 16}, "test=16: must be at most 15")],
)
def test_what_a_hub_does_not_have_is_said(options, said):
    with pytest.raises(InputError, match=said):
        ImageClassification(**SMALL | options).draw(0)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("label", "said"), [(-1, "-1"), (3, "3"), ("cat", "'cat'")])
def test_labels_that_are_kept_back_are_told_before_anything_runs(label, said, monkeypatch):
    whole = sys.modules["datasets"].load_dataset

    def load_dataset(name, configuration, split):
        rows = whole(name, configuration, split)
        return Rows({**row, "label": label} for row in rows) if split == "test" else rows

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    with pytest.raises(InputError, match=f"data='some/grays': must be a data set whose labels are 0 to 2; for test it has {said}$"):
        ImageClassification(data="some/grays", **SMALL).draw(0)


# Wrong uses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"examples": 370}, "examples=370: must be at most 369"),
        ({"validation": 497}, "validation=497: must be at most 496"),
        ({"test": 897}, "test=897: must be at most 895"),
        ({"test": 0}, "test=0: must be an integer"),
        ({"angle": 181}, "angle=181: must be a number"),
        ({"head": "probe"}, "head='probe': must be one of frozen, trained"),
        ({"weights": "none"}, "weights='none': must be one of"),
        ({"model": "digit_vit"}, "model='digit_vit': must be digits_vit, a folder"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(options, said):
    with pytest.raises(InputError, match=said) as caught:
        ImageClassification(**options).draw(0)
    assert "\n" not in str(caught.value)


def test_unknown_data_without_the_package_datasets_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"data='mnist': must be rotated_digits, or .* datasets") as caught:
        ImageClassification(data="mnist").draw(0)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model=.*: must be digits_vit, a folder, or a hub's id") as caught:
        ImageClassification(model=str(tmp_path)).draw(0)
    assert "\n" not in str(caught.value)


def test_targets_that_no_layer_has_are_refused_with_those_that_there_are():
    with pytest.raises(InputError, match=r"problem.targets=\['nowhere'\].*q_proj"):
        adapted(ImageClassification(targets=("nowhere",), **SMALL), seeds=[0], steps=1)


def test_an_untrained_model_is_another_for_another_seed():
    assert not torch.equal(untrained(0).classifier.weight, untrained(1).classifier.weight)
