"""Folders and files that are no safetensors checkpoint, and what they are instead."""

from ...errors import InputError, show
from ...files import read_json, read_whole, telling

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
ADAPTER = "adapter_config.json"


def refuse_pickle(path):
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{show(path.name)} is a pickle, which can run code when opened, and is "
            "refused; save the weights as .safetensors first."
        )


def refuse_folder(folder):
    """InputError for a folder without weights, by what lies there instead."""
    with telling(folder, "read"):
        files = sorted(f for f in folder.iterdir() if f.name[:2] != "._")
    weights = [f for f in files if f.suffix == ".safetensors"]
    if any(not f.name.startswith("adapter") for f in weights):
        return
    if weights or (folder / ADAPTER).exists():
        there = (folder / ADAPTER).exists()
        said = read_json(read_whole(folder / ADAPTER), ADAPTER) if there else {}
        base = show(said.get("base_model_name_or_path") or "a model it does not name")
        raise InputError(
            f"{show(folder)} is a LoRA adapter for {base}, no model by itself; load "
            "both with PEFT, save what merge_and_unload gives, and give that folder."
        )
    if any(f.suffix == ".distcp" or f.name.startswith("global_step") for f in files):
        raise InputError(
            f"{show(folder)} is what a training run wrote to go on from; let the tool "
            "that wrote it save the model as .safetensors."
        )
    for file in files:
        refuse_pickle(file)
    inner = [f for f in files if f.is_dir() and any(f.glob("*.safetensors"))]
    give = f"; give {' or '.join(show(f) for f in inner[:4])}" if inner else ""
    lacks = "" if (folder / "config.json").exists() else "config.json and no "
    raise InputError(f"{show(folder)} holds no {lacks}.safetensors file{give}.")
