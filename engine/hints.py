"""Guess what an unknown argument means: the same key elsewhere in the configuration, or a key that was left out."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from common.flags import split_flags
from common.run_folder import PROJECT
from common.run_record import flatten
from common.text import typed_override

CONF = PROJECT / "conf"

# What other programs call a setting -> the last word of the key here
ALIASES = {
    "epoch": "max_epochs", "epochs": "max_epochs", "n_epochs": "max_epochs", "num_epochs": "max_epochs", "steps": "max_steps",
    "learning_rate": "lr", "lr0": "lr", "base_lr": "lr", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size",
    "gpu": "devices", "gpus": "devices", "n_gpus": "devices", "workers": "num_workers", "n_workers": "num_workers",
    "size": "image_size", "img_size": "image_size", "imgsz": "image_size", "input_size": "image_size",
    "resolution": "image_size", "pretrained": "weights", "amp": "precision", "fp16": "precision",
    "data": "root", "data_dir": "root", "data_root": "root", "data_path": "root", "dataset": "root", "folder": "root",
    "csv": "table", "labels": "table", "arch": "model", "net": "model", "network": "model", "optim": "optimizer",
    "opt": "optimizer", "lr_scheduler": "scheduler", "sched": "scheduler", "random_seed": "seed", "augment": "augmentation",
    "resume": "ckpt_path", "checkpoint": "ckpt_path", "criterion": "loss", "kfold": "folds", "device": "accelerator",
    "early_stopping": "patience", "early_stop": "patience", "cache_limit_gib": "cache_max_gib", "ckpt": "ckpt_path",
}  # fmt: skip
CHOICES = {"cuda": "gpu"}  # what other programs call a choice
FOLDERS = dict.fromkeys(("out", "output", "output_dir", "out_dir", "save_dir", "run_dir", "log_dir"), "hydra.run.dir")
SPLIT = (
    "is not a setting: images without folders train, val and test are split 60/20/20; for other parts, use such folders, or a "
    "table with a column split: datamodule.table=FILE"
)
CLASSES = "is not a setting: the classes are the folders of the images, or the labels of datamodule.table; leave it out"
# Names that are not settings, or no longer, and what to use instead
NO_SETTINGS = {
    "train.py": dict.fromkeys(("split", "val_split", "test_split", "val_size"), SPLIT)
    | dict.fromkeys(("num_classes", "n_classes"), CLASSES),
    "demo.py": {
        "share": "is no longer a setting: demo.py sends nothing through other servers; python export.py format=web makes a "
        "folder for any static host",
        "device": "is no longer a setting: the browser computes on its own processor; leave it out",
    },
}
POSITIONAL = {"search.py": "name", "export.py": "ckpt", "report.py": "runs", "demo.py": "ckpt"}


def keys_called(name: str, config: DictConfig) -> list[str]:
    """Return the keys of a composed configuration whose last word is `name`, or what other programs call `name`.

    Outer keys come first. Where no group itself has the key (GROUP.KEY), also return those of files that are not chosen, with
    the file: `scheduler.patience scheduler=plateau`.
    """
    settings = OmegaConf.to_container(config, resolve=False)
    settings.pop("hydra", None)
    name = name.lower().replace("-", "_").replace("/", ".")
    if "." in name:
        return [key for key in _dotted(settings) if key.lower() == name]
    for word in dict.fromkeys((name, ALIASES.get(name, name))):
        found = sorted((key for key in _dotted(settings) if key.split(".")[-1] == word), key=lambda key: key.count("."))
        nearest = [key for key in found if key.count(".") == found[0].count(".")]
        if nearest and nearest[0].count(".") < 2:
            return nearest
        if found := [*(_keys_of_files(word, settings) if "trainer" in settings else ()), *nearest]:
            return found
    return [FOLDERS[name]] if name in FOLDERS and "trainer" in settings else []


def _dotted(settings: dict) -> list[str]:
    """Return every dotted key, groups included, except keys that take the value of another key."""
    keys = [key for key, value in flatten(settings).items() if not str(value).startswith("${")]
    return list(dict.fromkeys([*settings, *(key for key in keys if not key.split(".")[-1].startswith("_"))]))


def _keys_of_files(word: str, settings: dict) -> list[str]:
    """Return `KEY GROUP=FILE` of the groups whose files have the key, with these files."""
    found = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        group = path.parent.name
        keys = flatten(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if group in settings else {}
        for key, value in keys.items():
            if key.split(".")[-1] == word and "source." not in key and not str(value).startswith("${"):
                found.setdefault(f"{group}.{key}", []).append(path.stem)
    return [f"{key} {key.split('.')[0]}={'|'.join(names)}" for key, names in found.items()]


def suggest(keys: Iterable[str], value: str | None) -> str:
    """Return `did you mean trainer.max_epochs=3?`, with the value as typed."""
    shown = []
    for key in list(keys)[:4]:
        name, _, choice = key.partition(" ")
        shown.append(f"{name}{'' if value is None else f'={value}'}{f' with {choice}' if choice else ''}")
    return f"did you mean {' or '.join(shown)}?"


def quoted(key: str, value: str) -> str:
    """Return KEY=VALUE quoted for both the shell and Hydra, so that the value arrives as it is; a list item by item."""
    inner = re.fullmatch(r"\[(.*)\]", value)
    items = [item.strip() for item in inner[1].split(",")] if inner and not set("[]") & set(inner[1]) else None
    return typed_override(key, items or value)


def with_keys(script: str, arguments: Sequence[str]) -> str:
    """Return the command with the probable key added to each argument without `=`."""
    flags, texts = split_flags(arguments)
    overrides = []
    for text in texts:  # KEY = VALUE and KEY VALUE are one argument; two paths are not
        before = overrides[-1] if overrides else ""
        is_key = re.fullmatch(r"\w+(\.\w+)*", before) and (CONF / before.split(".")[0]).is_dir()
        if before and (before.endswith("=") or text.startswith("=")):
            overrides[-1] += text
        elif is_key and "=" not in text:
            overrides[-1] += f"={text}"
        else:
            overrides.append(text)
    completed = [each if "=" in each or each.startswith("~") else _keyed(script, each) for each in overrides]
    return " ".join(["python", script, *flags, *completed])


def _keyed(script: str, text: str) -> str:
    suffix, colon = Path(text).suffix.lower(), re.fullmatch(r"(\w+)((?:\.\w+)*):(.+)", text)
    if colon and (CONF / colon[1]).is_dir():  # as in YAML
        return f"{colon[1]}{colon[2]}={colon[3]}"
    if script == "predict.py":
        return typed_override("ckpt" if suffix in (".ckpt", ".onnx") else "images", text)
    if script in POSITIONAL:
        return typed_override(POSITIONAL[script], text)
    if suffix == ".ckpt":
        return typed_override("ckpt_path", text)
    if re.fullmatch(r"[\w-]+", text) and (files := sorted(CONF.glob(f"*/{text}.yaml"))):
        return f"{files[0].parent.name}={text}"
    return f"datamodule=image_folder {typed_override('datamodule.root', text)}"
