"""Classify images after a few examples of a shifted kind: a vision transformer, adapted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from linalg.checks import check, check_choice, check_integer, check_number
from linalg.random import generator
from problems._classification import Classification
from problems._digits import CLASSES, digits, rotated
from problems._fingerprints import of_contents
from problems._hub import hub_part, of_data, split_name
from problems._language import check_reach, check_whole, fingerprint_of, fresh, unreadable
from problems._pretrained.digits import NET, WEIGHTS, as_seen, pretrained, split, untrained
from problems._real_data import digest
from problems._task import Batch, FineTuning, unknown, without_dropout

NAME = "image_classification"
DIGITS_VIT, ROTATED_DIGITS = "digits_vit", "rotated_digits"
HEADS = ("frozen", "trained")
COLUMNS = {"image": ("image", "img"), "label": ("label", "labels")}  # as hubs call them
ROWS = 64  # of a forward pass that measures

Parts = dict[str, tuple[Any, Tensor]]  # images, (N, 8, 8) from 0 to 1 or a list of PIL's, and their classes (N,)


@dataclass(frozen=True)
class ImageClassification(FineTuning):
    """Cross-entropy of a vision transformer on a few labelled images, with the error on images held out.

    Args:
        model: `digits_vit` (four layers of width 64 that know upright digits; it comes with the suite), a folder, or a hub's id.
        data: `rotated_digits` (scikit-learn's, those that `digits_vit` has not seen, turned), or a data set of a hub by name,
            `owner/name/configuration` where it has several, with columns image or img, and label.
        angle: by which every one of the rotated digits is turned, in degrees, counter-clockwise.
        examples: how many to train on, drawn without replacement.
        validation, test: how many pick the learning rate, and are reported; the test images are the same for every seed.
        head: `frozen` or `trained` with the adapters; null for frozen with `digits_vit` and trained with others. It is the
            model's own, or drawn at random where that has not the data's number of classes.
    """

    sources: ClassVar = {"model": "digits_vit, a folder that is there, or a hub's id", "data": "rotated_digits, or a hub's id"}
    reference: ClassVar[str] = "Dosovitskiy et al. 2021, arXiv 2010.11929 (ViT); the digits of scikit-learn"

    batch_size: int = 32
    model: str = DIGITS_VIT
    data: str = ROTATED_DIGITS
    angle: float = 35.0
    examples: int = 64
    validation: int = 128
    test: int = 400
    head: str | None = None

    def check(self):
        for name in ("examples", "validation", "test"):
            check_integer(name, getattr(self, name))
        check_number("angle", self.angle, least=-180, most=180)
        if self.head is not None:
            check_choice("head", self.head, HEADS)
        known = self.model == DIGITS_VIT or "/" in self.model or Path(self.model).is_dir()
        check(known, "model", self.model, f"{DIGITS_VIT}, a folder, or a hub's id, which has a slash")

    def task(self, seed):
        parts, classes = (self.digits(seed), CLASSES) if self.data == ROTATED_DIGITS else self.of_hub(seed)
        return ImageTask(self, seed, classes, parts)

    def digits(self, seed: int) -> Parts:
        """Rotated digits that pre-training has not seen, the first of which are for the test."""
        there = split()[1]
        self.check_room(("test", "validation", "examples"), len(there))
        images, classes = digits()
        rows = {**self.drawn(there[self.test :], seed), "test": there[: self.test]}
        angle = torch.tensor(float(self.angle), dtype=images.dtype)
        return {name: (rotated(images[those], angle.expand(len(those))), classes[those].argmax(-1)) for name, those in rows.items()}

    def of_hub(self, seed: int) -> tuple[Parts, int]:
        """Images of a hub's data set, and how many classes it has. The test's rows are drawn, too: many are sorted by class."""
        train, test = hub_rows(self.data, "train"), hub_rows(self.data, "test")
        self.check_room(("validation", "examples"), len(train))
        self.check_room(("test",), len(test))
        some = torch.randperm(len(test), generator=generator(0, "test"))[: self.test]
        chosen = {name: (train, rows) for name, rows in self.drawn(torch.arange(len(train)), seed).items()} | {"test": (test, some)}
        image, label = (column_of(self.data, train, kind) for kind in COLUMNS)
        told = getattr(train.features[label], "num_classes", None)
        parts: Parts = {}
        for name, (source, those) in chosen.items():
            rows = [source[i] for i in those.tolist()]
            self.check_labels(name, [row[label] for row in rows], told)
            parts[name] = [row[image] for row in rows], torch.tensor([int(row[label]) for row in rows])
        return parts, told or 1 + max(int(each) for rows in (train, test) for each in rows[label])

    def check_labels(self, part: str, labels: Sequence[Any], classes: int | None) -> None:
        """Raise `InputError` for labels that are no classes: of some data sets the test part's are kept back."""
        for label in labels:
            if not isinstance(label, (int, np.integer)) or not 0 <= label < (classes or label + 1):
                wanted = "integers from 0" if classes is None else f"0 to {classes - 1}"
                raise unknown(NAME, "data", self.data, f"a data set whose labels are {wanted}; for {part} it has {label!r}")

    def drawn(self, rows: Tensor, seed: int) -> dict[str, Tensor]:
        """Of these rows, those that train and those that validate."""
        rows = rows[torch.randperm(len(rows), generator=self.generator(seed))]
        return {"train": rows[: self.examples], "validation": rows[self.examples : self.examples + self.validation]}

    def check_room(self, names: Sequence[str], there: int) -> None:
        """Raise `InputError` where parts together ask for more images than there are."""
        left = there
        for place, name in enumerate(names, 1):
            most = left - (len(names) - place)  # the parts after it need one at least
            if getattr(self, name) > most:
                raise unknown(
                    NAME, name, getattr(self, name), f"at most {most}, of the {there} that {self.data} has for {', '.join(names)}"
                )
            left -= getattr(self, name)

    def fingerprint(self):
        data = digest([*digits(), *split()]) if self.data == ROTATED_DIGITS else of_data(self.data)
        own = of_contents(WEIGHTS) if self.model == DIGITS_VIT else ""
        return f"{data} {own or fingerprint_of(self.model)}"


@cache
def hub_rows(data: str, part: str) -> Any:
    """A part of a hub's data set, whose images are decoded row by row."""
    return hub_part(NAME, data, *split_name(data), part, own=ROTATED_DIGITS)


def column_of(data: str, rows: Any, kind: str) -> str:
    """What a data set calls its images, or its labels."""
    for name in COLUMNS[kind]:
        if name in rows.column_names:
            return name
    raise unknown(
        NAME, "data", data, f"a data set with a column {' or '.join(COLUMNS[kind])}; it has {', '.join(rows.column_names)}"
    )


def loaded(model: str, classes: int) -> tuple[nn.Module, bool]:
    """A folder's or a hub's classifier in float32, and whether its head came with it; loaded once a process, to be copied."""
    return loaded_as(model, classes, fingerprint_of(model))


@cache
def loaded_as(model: str, classes: int, fingerprint: str) -> tuple[nn.Module, bool]:
    from transformers import AutoModelForImageClassification

    check_reach(NAME, model, DIGITS_VIT)
    options = {"num_labels": classes, "ignore_mismatched_sizes": True, "output_loading_info": True, "dtype": torch.float32}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of layers that the weights lack
            found, said = AutoModelForImageClassification.from_pretrained(model, **options)
    except unreadable() as error:
        raise unknown(NAME, "model", model, f"{DIGITS_VIT}, a folder, or a hub's id within reach", error) from error
    check_whole(NAME, model, said, ("classifier", "pooler"))
    return found, not said["missing_keys"] and not said["mismatched_keys"]


def of_chance(model: str, classes: int, seed: int) -> nn.Module:
    """An untrained classifier of a folder's or a hub's architecture."""
    from transformers import AutoConfig, AutoModelForImageClassification

    check_reach(NAME, model, DIGITS_VIT)
    try:
        config = AutoConfig.from_pretrained(model, num_labels=classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found: nn.Module = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
        return found
    except unreadable() as error:
        raise unknown(NAME, "model", model, f"{DIGITS_VIT}, a folder, or a hub's id within reach", error) from error


def pixels(model: str, channels: int, images: Any) -> Tensor:
    """(N, channels, height, width) images as a model takes them, in float32."""
    from PIL import Image

    if model == DIGITS_VIT:
        if not isinstance(images, Tensor):
            side = NET["image_size"]
            gray = [np.asarray(each.convert("L").resize((side, side), Image.Resampling.BILINEAR)) for each in images]
            images = torch.from_numpy(np.stack(gray)) / 255
        return as_seen(images)
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(model)
    except unreadable() as error:
        raise unknown(NAME, "model", model, "one with a preprocessor_config.json beside it", error) from error
    if isinstance(images, Tensor):
        images = [Image.fromarray(each) for each in (images * 255).round().byte().numpy()]
    mode = "L" if channels == 1 else "RGB"
    found: Tensor = processor([each.convert(mode) for each in images], return_tensors="pt")["pixel_values"]
    return found


def draw_head(model: nn.Module, classes: int, seed: int) -> None:
    """Give a classifier a head of chance for so many classes."""
    if isinstance(model.classifier, nn.Linear) and model.classifier.out_features != classes:
        model.classifier = nn.Linear(model.classifier.in_features, classes)
    source = generator(seed, "head")
    for layer in model.get_submodule("classifier").modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=source) * 0.02)
            if layer.bias is not None:
                layer.bias.data.zero_()


class ImageTask(Classification):
    """Images with their classes, in three parts."""

    def __init__(self, problem: ImageClassification, seed: int, classes: int, parts: Parts) -> None:
        self.problem, self.seed, self.classes = problem, seed, classes
        self.evaluations = problem.evaluations
        self.targets = problem.targets or ("q_proj", "v_proj", "query", "value")
        frozen = problem.head == "frozen" or (problem.head is None and problem.model == DIGITS_VIT)
        self.head = () if frozen else ("classifier",)
        config: Any = self.pretrained.config
        self.parts: dict[str, Batch] = {
            name: {"pixel_values": pixels(problem.model, config.num_channels, images), "labels": labels}
            for name, (images, labels) in parts.items()
        }

    @cached_property
    def pretrained(self) -> nn.Module:
        name, random = self.problem.model, self.problem.weights == "random"
        own_head = True
        if name == DIGITS_VIT:
            model = untrained(self.seed) if random else pretrained()
            own_head = self.classes == NET["num_labels"]
        elif random:
            model = of_chance(name, self.classes, self.seed)
        else:
            found, own_head = loaded(name, self.classes)
            model = fresh(found)
        if not isinstance(getattr(model, "classifier", None), nn.Module):
            raise unknown(NAME, "model", name, "one whose head is its module `classifier`, as ViT's is")
        if not own_head:
            draw_head(model, self.classes, self.seed)
        return without_dropout(model)

    def model(self):
        return fresh(self.pretrained)

    def batch(self, step):
        rows = self.rows(step)
        return {name: tensor[rows] for name, tensor in self.parts["train"].items()}

    def chunks(self, part):
        return [{name: tensor[rows] for name, tensor in part.items()} for rows in torch.arange(len(part["labels"])).split(ROWS)]

    def scores(self, model, batch):
        """In the model's precision."""
        return model(pixel_values=batch["pixel_values"].to(next(model.parameters()))).logits
