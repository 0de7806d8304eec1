"""What each method loses on its way out of a model and back: `python tests/adapters/table.py` prints the docs' table."""

import tempfile
import warnings

import torch
from peft import LoraConfig, PeftModel
from tiny import CASES, MODELS, output, train, trainable, wrapped

import adapters

PREFIXES = {"conditional_unet": "unet", "transformer": "transformer"}
STEPS = 20


def lost(model_name: str, case: str, by_diffusers: bool) -> float:
    """The largest difference between a trained model's outputs and those of a fresh one that loads its file."""
    (name, options), (build, target, loss) = CASES[case], MODELS[model_name]
    if by_diffusers:
        model = build()
        model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=target))
    else:
        model = wrapped(model_name)
    adapters.attach(model, name, loss=loss, steps=STEPS, **options)
    train(model, torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0.0), loss, STEPS)
    told, again = output(model, loss), build()
    with tempfile.TemporaryDirectory() as folder:
        file = adapters.export(model, folder, "diffusers" if by_diffusers else "peft")
        if by_diffusers:
            again.load_lora_adapter(folder, prefix=PREFIXES[model_name], weight_name=file.name)
        else:
            again = PeftModel.from_pretrained(again, folder)
        return float((output(again, loss) - told).abs().max())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    columns = [(model, False) for model in MODELS] + [(model, True) for model in PREFIXES]
    print("| method | " + " | ".join(f"{model}{', diffusers' * by}" for model, by in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for case in CASES:
        print(f"| {case} | " + " | ".join(f"{lost(model, case, by):.0e}" for model, by in columns) + " |", flush=True)
