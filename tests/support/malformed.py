"""Malformed inputs, made by a script with a fixed seed: images of every format, tables, checkpoints, records, settings."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.support.fake_checkpoints import noisy

FORMATS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}
ODD = (None, True, -1, 10**30, 1.5, float("nan"), "", "x", [], [[1]], {}, {"a": {"b": 1}})
DRAWN = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(owned) print\n%%EOF\n"


def images() -> dict[str, bytes]:
    """Name of a file -> its content: cut off, with flipped bytes, with the head of another format, under another name."""
    generator = np.random.default_rng(0)
    whole, made = {}, {}
    for kind, suffix in FORMATS.items():
        buffer = io.BytesIO()
        image = noisy(generator, 40, 30)
        more = {"save_all": True, "append_images": [noisy(generator, 40, 30)]} if kind in ("MPO", "GIF") else {}
        image.save(buffer, kind, **more)
        whole[kind] = buffer.getvalue()
        content = whole[kind]
        for share in (0.02, 0.3, 0.6, 0.95):
            made[f"{kind}_cut_{share}{suffix}"] = content[: int(len(content) * share)]
        for index in range(6):
            flipped = bytearray(content)
            places = generator.integers(0, 60 if index < 3 else len(content), 3)
            for place in places.tolist():
                flipped[place] ^= int(generator.integers(1, 256))
            made[f"{kind}_flipped_{index}{suffix}"] = bytes(flipped)
        made[f"{kind}_twice{suffix}"] = content[: len(content) // 2] * 2
    for (kind, suffix), other in zip(FORMATS.items(), [*list(whole)[1:], "JPEG"], strict=True):
        made[f"{kind}_is_{other}{suffix}"] = whole[other]
        made[f"{kind}_head_of_{other}{suffix}"] = whole[other][:24] + whole[kind][24:]
    return made | _of_no_format() | _bombs(whole["PNG"])


def _of_no_format() -> dict[str, bytes]:
    icon = io.BytesIO()
    Image.new("RGB", (16, 16)).save(icon, "ICO")
    wmf = b"\xd7\xcd\xc6\x9a\0\0" + b"\1\0" * 20
    return {
        "empty.png": b"", "zeros.jpg": bytes(5000), "letter.jpg": b"Dear reader", "eps.jpg": DRAWN, "eps.png": DRAWN,
        "pdf.jpg": b"%PDF-1.4\n%%EOF", "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "wmf.bmp": wmf,
        "icon.png": icon.getvalue(), "ppm.bmp": b"P6 2 2 255\n" + bytes(12), "script.gif": b"#!/bin/sh\ntouch owned\n",
        "gif_of_nothing.gif": b"GIF89a", "half_a_head.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X",
    }  # fmt: skip


def _bombs(png: bytes) -> dict[str, bytes]:
    """Small files whose headers promise huge images."""
    head = {side: struct.pack(">II", side, side) + b"\10\2\0\0\0" for side in (17_000, 60_000)}
    text = zlib.compress(bytes(2**26))
    entry = struct.pack("<HHII", 270, 2, 2**32 - 1, 8)  # a description of 4 GiB
    return {
        "huge.png": _chunk(png[:8], b"IHDR", head[60_000]) + png[33:],
        "large.png": _chunk(png[:8], b"IHDR", head[17_000]) + png[33:],  # of which Pillow only warns
        "text.png": _chunk(png[:33], b"zTXt", b"a\0\0" + text) + png[33:],
        "profile.png": _chunk(png[:33], b"iCCP", b"a\0\0" + text) + png[33:],
        "tags.tif": b"II*\0\10\0\0\0" + struct.pack("<H", 1) + entry + bytes(4),
        "round.tif": b"II*\0\10\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8),
        "huge.bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 100, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "huge.gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
        "huge.jpg": b"\xff\xd8\xff\xc0\0\x11\10\xff\xff\xff\xff\3\1\x22\0\2\x11\1\3\x11\1\xff\xd9",
    }


def _chunk(before: bytes, kind: bytes, content: bytes) -> bytes:
    return before + struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tables() -> list[tuple[bytes, str]]:
    """Content of a table of images a/000.png and b/000.png and words of its message; "" where it is right."""
    good = b"path,label\na/000.png,a\nb/000.png,b\n"
    cases: list[tuple[bytes, str]] = [
        (good, ""), (b"\xef\xbb\xbf" + good, ""), (good.replace(b"\n", b"\r\n"), ""), (good.replace(b"\n", b"\r"), ""),
        (b"", "path and label are missing"), (b"\n", "path and label are missing"),
        (b"path\n", "label is missing"),
        (b"path,label", "no rows"),
        (b"path,label\n", "no rows"), (good.decode().encode("utf-16"), ""), (good.decode().encode("utf-16-be"), ""),
        (good.decode().encode("utf-32"), ""), (b"\0" * 1000, "missing"),
        (good.replace(b"a/", b"a/\0"), "leaves the folder"),
        (good.replace(b",a", b",\xff"), "UTF-8"), (good.replace(b",", b";"), ""), (good.replace(b",", b"\t"), ""),
        (b"path,label,label\na/000.png,a,a\n", "label appears twice"), (b"x" * 10_000_000 + b"\n" + good, "line 1: field"),
        (good + b'"' + b"x" * 10_000_000, "line 4"), (good + b"a/000.png,a\n", "line 4: a/000.png is already in line 2"),
        (good + b"./a//000.png,b\n", "is already in line 2"), (good + b"a/000.png\n", "line 4: values are missing"),
        (good + b",a\n", "line 4"), (good + b"a/001.png,a,b,c\n", "line 4: values are missing or too many"),
        (good + b'"a/001.png,a\n', "line 4"),
        (good + b'"a"b,a\n', "line 4"), (good + b"a/gone.png,a\n", "line 4: no such file"), (good + b"a,a\n", "no such file"),
        (good + b"../a/000.png,a\n", "leaves the folder"), (good + b"/etc/passwd,a\n", "leaves the folder"),
        (good + b"a/../../x,a\n", "leaves the folder"), (good + b"x" * 5000 + b",a\n", "no such file"),
        (good.replace(b",b", b", b "), ""), (good.replace(b",b", b",a"), "a single class"),
    ]  # fmt: skip
    odd = {
        "split": ("late", "trains", "0", "train;val"),
        "weight": ("-1", "nan", "inf", "-inf", "1e999", "x", "1,5", "--1", "0x10", "1e7"),
    }
    for column, values in odd.items():
        head = f"path,label,{column}\na/000.png,a"
        cases += [(f'{head},"{value}"\nb/000.png,b,\n'.encode(), f"line 2: {column}=") for value in values]
        cases.append((f"{head}\n".encode(), "values are missing"))
    cases.append(
        (b'path,label,group\na/000.png,a,g\nb/000.png,b,"g\na/001.png,a,g\n', "unexpected end of data")
    )  # all in one
    cases.append((b"path,label,weight\na/000.png,a,0\nb/000.png,b,0\n", "every weight is 0"))
    return cases


def checkpoints(base: Path):
    """Name, content, and whether it has to be refused: cut, flipped, without a key, or with an odd value at each."""
    generator = np.random.default_rng(0)
    content = base.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.9, 0.99):
        yield f"cut at {share}", content[: int(len(content) * share)], True
    yield "with more behind it", content + b"more", False
    for place in generator.integers(0, len(content), 30).tolist():
        yield f"flipped at {place}", content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :], None
    state = torch.load(base, weights_only=True)
    for keys in (
        ["state_dict"],
        ["hyper_parameters"],
        *(["hyper_parameters", key] for key in state["hyper_parameters"]),
    ):
        yield (
            f"without {keys}",
            _saved(state, keys, None, remove=True),
            keys[-1] not in ("fit", "range", "interpolation"),
        )  # as before there were
        for odd in ODD:
            yield f"{keys} is {odd!r}", _saved(state, keys, odd), (keys[-1], odd) != ("range", None)
    for odd in ODD[1:]:
        yield f"decision is {odd!r}", _saved(state, ["decision"], odd), True
    for key in ("temperature", "target_accuracy", "positive_class", "threshold", "threshold_criterion"):
        for odd in (None, True, -1, float("nan"), [], {}):
            yield (
                f"decision.{key} is {odd!r}",
                _saved(state, ["decision", key], odd),
                key != "threshold" or odd is not None,
            )
    name, weight = next(iter(state["state_dict"].items()))
    yield "weights of 64 bits", _saved(state, ["state_dict", name], weight.double()), False
    for odd in (weight[:1], weight.long(), weight[..., None], torch.zeros(0), 1.0, None, [weight]):
        shape = getattr(odd, "shape", "")
        yield f"weights are {type(odd)} {shape}", _saved(state, ["state_dict", name], odd), True
    yield "a name too many", _saved(state, ["state_dict", "network.more"], weight), True
    yield "a name too few", _saved(state, ["state_dict", name], None, remove=True), True


def _saved(state: dict, keys: list, value, remove: bool = False) -> bytes:
    """The state with another value at a place, or without it."""
    node = copied = dict(state)
    for key in keys[:-1]:
        node[key] = dict(node[key])
        node = node[key]
    if remove:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    buffer = io.BytesIO()
    torch.save(copied, buffer)
    return buffer.getvalue()


def records(text: str) -> list[str]:
    """A record cut off, with odd values at its keys, nested, and no JSON."""
    generator = np.random.default_rng(0)
    whole = json.loads(text)
    made = [text[: int(len(text) * share)] for share in (0, 0.01, 0.3, 0.7, 0.99)]
    made += ["{}", "[]", "null", "5", '"x"', '{"schema": 1}', text.replace('"schema": 2', '"schema": 99'), text + "}"]
    more = ("1e999", "NaN", "9" * 5000, "[" * 500 + "]" * 500, "[" * 50_000)
    made += ["\ufeff" + text, "[" * 50_000, *(text.replace("{", f'{{"a": {value}, ', 1) for value in more)]
    places = [(section, key) for section in whole if isinstance(whole[section], dict) for key in whole[section]]
    for section, key in places:
        odd = ODD[int(generator.integers(0, len(ODD)))]
        if odd == odd:
            made.append(json.dumps(whole | {section: whole[section] | {key: odd}}))
    return made + [json.dumps(whole | {section: odd}) for section in whole for odd in (True, -1, "x", [1])]


SETTINGS = """
seed=abc | seed=-1 | seed=99999999999999999999 | seed=1.5 | seed=null | seed=[1,2] | sed=1 | model.image_size=0
model.image_size=100000 | model.image_size=abc | model.image_size=null | model.image_size=1e3 | model.keep=1000000
model.keep=-1 | model.keep=[1] | model.keep=null | model.keep=1.5 | model.keep=nowhere | model.backbone=5
model.backbone=[a] | model.backbone=resnet19 | model.head=null | model.head.hidden_dims=5 | model.head.hidden_dims=[a]
model.head.hidden_dims=[1000000000] | model.head.hidden_dims=[-4] | model.head.dropout=[2,2] | model.head.dropout=null
+model.head.x=1 | model.freeze=maybe | model.freeze=-3 | model.network=os.system | model.network=[x]
model=timm model.name=hf-hub:evil/x | model=timm model.name=5 | model.backbone= | model.backbone=hf-hub:evil/x | model.keep=
model=shufflenet_v1 model.width=abc
model=shufflenet_v1 model.width=1e300 | +model.depth=3 | model=shufflenet_v1 model.width=nan
model=shufflenet_v1 model.groups=3.0 | model=simple_cnn model.dropout=5 | datamodule.batch_size=-1
datamodule.batch_size=1000 | datamodule.num_workers=1000000 | datamodule.train_fraction=nan
datamodule.train_fraction=1e-9 | datamodule.folds=1 | datamodule.folds=1000000 datamodule.fold=0 | datamodule.folds=2
datamodule.splits=5 | datamodule.splits=/dev/zero | datamodule.splits=[a]
datamodule.split_seed=-1 | datamodule.cache=5 | datamodule.cache_max_gib=nan | datamodule.gpu_cache_gib=-1
datamodule.sampler=x | datamodule.on_leak=[] | datamodule.select_on=x | datamodule.source=x
datamodule.root=/dev/null | datamodule.root=5 | datamodule.table=/dev/zero | datamodule.image_folder=x
+datamodule._args_=[1] | optimizer.lr=-1 | optimizer.lr=nan | optimizer.lr=null | optimizer.lr=[1] | optimizer=null
optimizer._partial_=5 | optimizer._target_=os.system | optimizer._target_=torch.optim.Adamm
optimizer=sgd +optimizer.momentum=-1 | scheduler.epochs=0 | scheduler.epochs=x | scheduler=plateau scheduler.factor=2
scheduler=plateau scheduler.patience=-1 | augmentation.erasing=-1 | augmentation.color_jitter=x
loss=focal loss.gamma=-1 | decision.false_negative_cost=nan | decision.threshold_criterion=x | trainer.max_epochs=1e9
trainer.max_epochs=null | trainer.devices=0 | trainer.devices=1000000 | trainer.precision=8 | trainer.accelerator=x
trainer.strategy=x | trainer.gradient_clip_val=-1 | +trainer.max_time=x | +trainer.plugins=[x]
callbacks.best_checkpoint.monitor=x | +callbacks.x=5 | +callbacks.x.a=1 | ~callbacks.checkpoint | callbacks=5
+trainer.logger=5 | experiment=null | ~optimizer | stages=5 | stages=[1] | stages=null | logger._target_=os.system | model=5
trainer=null
"""


def settings() -> list[list[str]]:
    """Arguments of train.py, each with something wrong in the last of them."""
    return [case.split() for line in SETTINGS.strip().splitlines() for case in line.split(" | ")]
