"""What a lane learned, exported and loaded by diffusers and peft: the same pictures, and the same measures."""

import json

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")
import diffusers
from peft import PeftModel
from safetensors.torch import load_file
from tiny_task import TinyText

import adapters
from bench.engine import Settings
from bench.fine_tuning import Lane
from linalg import InputError
from optimizers import Adam
from parameterizations import AdaLoRA, DeepLoRA, Flora, LoRA, OPLoRA
from problems import ImageClassification, ImageStyle

METHODS = {
    "lora": LoRA(rank=2),
    "op_lora": OPLoRA(rank=2, hidden=6, embedding=5),
    "deep_lora": DeepLoRA(rank=4),
    "flora": Flora(rank=2, interval=2),
    "adalora": AdaLoRA(rank=3),
}
TEXT_LENGTH, SIDE = 20, 16  # tokens that the tiny text encoder takes, and pixels that the tiny pipeline draws
SMALL = {"examples": 4, "samples": 2, "sampling_steps": 2, "batch_size": 2}
WEIGHTS = "pytorch_lora_weights.safetensors"


def tokenizer(folder):
    """One token a letter, as CLIP has them within a word and at its end."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,"
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TEXT_LENGTH)


def components(folder):
    """Parts of a pipeline with random weights: pictures of 16 x 16 as latents of 4 x 8 x 8, and texts of width 16."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer(folder)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    sizes = {"norm_num_groups": 4, "layers_per_block": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "tokenizer": words,
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text, **ends, max_position_embeddings=TEXT_LENGTH)),
            "vae": diffusers.AutoencoderKL(**encoder, **sizes, block_out_channels=(8, 8), latent_channels=4, sample_size=SIDE),
            "unet": diffusers.UNet2DConditionModel(
                SIDE // 2, 4, 4, **blocks, **sizes, block_out_channels=(8, 16), cross_attention_dim=16, attention_head_dim=4
            ),
        }


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a pipeline of Stable Diffusion's class."""
    folder = tmp_path_factory.mktemp("pipeline")
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = components(folder) | {"scheduler": scheduler, "safety_checker": None, "feature_extractor": None}
    diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def draw_pictures(folder, count):
    """Pictures of a colour with a stripe across, and what they show beside them."""
    from PIL import Image, ImageDraw

    colours = ("red", "green", "blue", "black")
    for i in range(count):
        colour = colours[i % len(colours)]
        picture = Image.new("RGB", (24, 20), colour)
        ImageDraw.Draw(picture).rectangle((2 * i, 0, 2 * i + 4, 20), fill="white")
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"{colour}, a stripe\n")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"), 8)


@pytest.fixture(scope="module")
def task(pipeline, pictures):
    return ImageStyle(model=str(pipeline), data=str(pictures), **SMALL).draw(0)


def trained(task, method, steps=5, lr=1e-2, **settings):
    """A lane after some steps, ready to be measured, and what its model drew and its loss on the first batch was before."""
    lane = Lane(task, method, Adam(), 0, lr, Settings(steps, **settings))
    before = seen(task, lane.model)
    for _ in range(steps):
        lane.advance()
    lane.model.eval()
    return lane, before


@torch.no_grad()
def seen(task, model):
    """The pictures, where there are any, the measures, and the loss on the first batch."""
    model.eval()
    drawn = task.samples(model) if hasattr(task, "samples") else None
    return {"samples": drawn, "measures": task.measure(model), "first": float(task.losses(model, task.batch(0)))}


def reloaded(task, lane, folder):
    """What peft makes of a fresh model and the lane's export."""
    adapters.export(lane.model, folder)
    return PeftModel.from_pretrained(task.model(), folder)


@pytest.fixture(scope="module", params=["lora", "op_lora"])
def learned(request, task):
    return trained(task, METHODS[request.param], steps=8, lr=3e-2)


def test_a_pipeline_learns_from_a_folder_of_pictures(task, learned):
    lane, before = learned
    after = seen(task, lane.model)
    assert after["first"] < before["first"]
    assert after["measures"]["loss"] < before["measures"]["loss"]
    assert after["samples"].shape == (2, 3, SIDE, SIDE)
    assert (after["samples"] - before["samples"]).abs().max() > 0.05
    assert after["samples"].abs().max() <= 1


def test_a_pipeline_before_training_draws_what_the_folder_draws(task, pipeline, learned):
    _, before = learned
    fresh = diffusers.StableDiffusionPipeline.from_pretrained(pipeline)
    torch.testing.assert_close(before["samples"], task.samples(fresh.unet), rtol=0, atol=1e-6)


def test_diffusers_draws_the_pictures_of_the_lane_that_it_loads(task, pipeline, learned, tmp_path):
    lane, _ = learned
    told = task.samples(lane.model)
    adapters.export(lane.model, tmp_path, "diffusers")
    fresh = diffusers.StableDiffusionPipeline.from_pretrained(pipeline)
    fresh.set_progress_bar_config(disable=True)

    def drawn():
        return fresh(
            task.captions["test"][0], num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="pt"
        ).images

    untrained = drawn()
    fresh.load_lora_weights(tmp_path, weight_name=WEIGHTS)
    torch.testing.assert_close(task.samples(fresh.unet), told, rtol=0, atol=1e-4)
    assert (drawn() - untrained).abs().max() > 0.02
    whole, fresh.unet = fresh.unet, lane.model.base_model.model
    ours = drawn()
    fresh.unet = whole
    torch.testing.assert_close(drawn(), ours, rtol=0, atol=1e-4)


def test_peft_denoises_as_the_lane_that_it_loads(task, learned, tmp_path):
    lane, before = learned
    again, told = seen(task, reloaded(task, lane, tmp_path)), seen(task, lane.model)
    assert again["measures"] == pytest.approx(told["measures"], abs=1e-5)
    assert told["measures"] != pytest.approx(before["measures"], abs=1e-3)
    torch.testing.assert_close(again["samples"], told["samples"], rtol=0, atol=1e-4)


def test_a_pipeline_is_told_what_each_picture_shows(task):
    batch = {**task.parts["train"], "noise": torch.zeros(4, 4, 8, 8), "times": torch.full((4,), 500)}
    model = task.model().eval()
    with torch.no_grad():
        own = task.of_rows(model, batch)
        strange = task.of_rows(model, batch | {"text": batch["text"].roll(1, 0)})
    same = (batch["text"] == batch["text"].roll(1, 0)).flatten(1).all(-1)
    assert not same.all()
    assert torch.equal(own == strange, same)


def test_a_pipelines_pictures_have_a_distance_to_those_held_out(task, learned):
    lane, _ = learned
    try:
        found = task.test(lane.model)
    except InputError as error:
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))
    assert torch.tensor(found["mmd"]).isfinite()


def test_a_pipeline_draws_in_the_lanes_precision_and_keeps_its_own(task):
    lane, before = trained(task, METHODS["lora"], steps=1, dtype=torch.float64)
    assert before["samples"].isfinite().all()
    assert task.samples(lane.model).shape == before["samples"].shape
    assert {part.dtype for part in (task.net.pipe.vae, task.net.pipe.text_encoder, task.net.pipe.unet)} == {torch.float32}
    task.net.encoded(task.images["train"])  # as the next task does


def test_a_pipeline_of_random_weights_is_another_one(pipeline, pictures, task):
    other = ImageStyle(model=str(pipeline), data=str(pictures), weights="random", **SMALL).draw(0)
    assert seen(other, other.model())["measures"] != pytest.approx(seen(task, task.model())["measures"], rel=1e-3)
    assert list(other.pictures(other.model())) == ["held out", "random weights", "adapted"]
    assert list(task.pictures(task.model())) == ["held out", "pretrained", "adapted"]


def test_a_folder_of_pictures_is_known_by_what_is_in_it(pipeline, tmp_path):
    problem = ImageStyle(model=str(pipeline), data=str(draw_pictures(tmp_path, 5)), **SMALL)
    first = problem.fingerprint()
    assert problem.fingerprint() == first
    (tmp_path / "1.txt").write_text("red, a stripe")
    assert problem.fingerprint() != first


def test_pictures_that_test_are_the_same_for_every_seed(pipeline, pictures):
    problem = ImageStyle(model=str(pipeline), data=str(pictures), **SMALL)
    first, second = (problem.draw(seed).images for seed in (0, 1))
    assert torch.equal(first["test"], second["test"])
    assert not torch.equal(first["train"], second["train"])
    everything = torch.cat([*first.values()]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything), "in one part each"


@pytest.mark.parametrize(("file", "said"), [("1.png", "1.png is none"), ("1.txt", "captions are UTF-8; 1.txt is not")])
def test_a_file_that_cannot_be_read_is_named(file, said, pipeline, tmp_path):
    draw_pictures(tmp_path, 5)
    (tmp_path / file).write_bytes(b"\xe9 \xff no picture")
    with pytest.raises(InputError, match=f"data=.*{said}") as caught:
        ImageStyle(model=str(pipeline), data=str(tmp_path), **SMALL).draw(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_folder_of_too_few_pictures_is_refused_in_one_line(count, pipeline, tmp_path):
    draw_pictures(tmp_path, count)
    with pytest.raises(InputError, match=r"data=.*must be") as caught:
        ImageStyle(model=str(pipeline), data=str(tmp_path), **SMALL | {"examples": 1}).draw(0)
    assert "\n" not in str(caught.value)


def test_one_sample_is_refused_because_it_has_no_unbiased_distance():
    with pytest.raises(InputError, match="samples"):
        ImageStyle(samples=1)


def test_a_folder_without_a_pipeline_is_refused_in_one_line(pictures):
    with pytest.raises(InputError, match=r"model=.*must be glyphs, the folder of a pipeline") as caught:
        ImageStyle(model=str(pictures), data=str(pictures), **SMALL).draw(0)
    assert "\n" not in str(caught.value)


CLASSIFIERS = {
    "tiny text": TinyText(),
    "vision transformer": ImageClassification(examples=12, validation=16, test=8, batch_size=8),
    "vision transformer, trained head": ImageClassification(examples=12, validation=16, test=8, batch_size=8, head="trained"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", CLASSIFIERS)
def test_peft_classifies_as_the_lane_that_it_loads(problem, method, tmp_path):
    task = CLASSIFIERS[problem].draw(0)
    lane, before = trained(task, METHODS[method], lr=2e-2)
    told = seen(task, lane.model)["measures"]
    assert abs(told["loss"] - before["measures"]["loss"]) > 1e-2  # else nothing was learned that a file could lose
    model = reloaded(task, lane, tmp_path)
    assert seen(task, model)["measures"] == pytest.approx(told, rel=1e-4)
    saved = [name for name in load_file(tmp_path / "adapter_model.safetensors") if "classifier" in name]
    assert len(saved) == (2 if task.head else 0)
    model = model.merge_and_unload()
    assert seen(task, model)["measures"] == pytest.approx(told, rel=1e-4)
    assert torch.equal(model.classifier.weight, task.model().classifier.weight) == (not task.head)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_was_trained_comes_back_with_the_adapter(method, tmp_path):
    task = TinyText().draw(0)
    lane, _ = trained(task, METHODS[method], lr=2e-2)
    head = {name.rpartition(".")[2]: tensor for name, tensor in lane.whole.items() if "classifier" in name}
    again = reloaded(task, lane, tmp_path).base_model.model.classifier.modules_to_save["default"]
    assert head.keys() == dict(again.named_parameters()).keys() == {"weight", "bias"}
    assert all(torch.equal(tensor, head[name]) for name, tensor in again.named_parameters())
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]


@pytest.mark.parametrize("method", METHODS)
def test_peft_draws_the_icons_of_the_lane_that_it_loads(method, tmp_path):
    try:
        task = ImageStyle(**SMALL).draw(0)
    except InputError as error:
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))
    lane, before = trained(task, METHODS[method], lr=3e-2)
    told, again = seen(task, lane.model), seen(task, reloaded(task, lane, tmp_path))
    assert (told["samples"] - before["samples"]).abs().max() > 0.02
    torch.testing.assert_close(again["samples"], told["samples"], rtol=0, atol=1e-4)
    assert again["measures"] == pytest.approx(told["measures"], rel=1e-4)
