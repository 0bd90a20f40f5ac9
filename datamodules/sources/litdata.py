"""litdata chunks: written by litdata.optimize, read from a disk or a cloud. Needs the extra `streaming`."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.text import clean, join_words
from common.untrusted.json_files import read_json
from datamodules.sources.source import relative_to
from datamodules.sources.streamed import StreamedSource
from datamodules.streams import Sample, Shards, Share

INDEX = "index.json"
LARGEST_INDEX = 2**28  # bytes
AGAIN = "write it again with litdata.optimize"
IMAGE_FORMATS = ("bytes", "jpeg", "image")  # litdata's formats that hold the content of an image file
LABEL_FORMATS = ("int", "str", "text")
# Required values in an index; mds, the other format, may hold pickles
PLAIN = {"encryption": None, "item_loader": "PyTreeLoader", "format": None}
# Allowed for other keys; further formats may run code when they are read (pickle), or mean nothing here
FURTHER_FORMATS = ("bool", "float")


class LitData(StreamedSource):
    """List val and test of a data set in chunks, and stream train.

    Args:
        train: folder, or a URL: s3://, gs://, azure://, hf:// or local: for a slow disk; cached below outputs/.cache.
        val: the same for val.
        test: the same for test; None for none.
        image: key of the image in each item.
        label: key of the label, which is a name or a number.
        classes: see StreamedSource.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str | None = None,
        image: str = "image",
        label: str = "label",
        classes: list | None = None,
    ):
        import litdata  # noqa: F401 the extra streaming: engine.config.instantiate names it where it is missing

        logging.getLogger("litdata").setLevel(logging.ERROR)  # it logs a description each time it opens something
        super().__init__(train=train, val=val, test=test, classes=classes, train_images=None)
        self.keys = (image, label)

    def shards(self, split: str) -> "Chunks":
        return Chunks(f"datamodule.source.{split}", getattr(self, split), *self.keys, self.cache / "litdata")


class Chunks(Shards):
    """Read the chunks of a folder."""

    def __init__(self, setting: str, place: str, image: str, label: str, cache: Path):
        self.cache = str(cache)  # for chunks that are not on a disk; litdata removes the oldest ones
        self.key, self.place, self.keys = f"{setting}={place}", place, (image, label)
        self.is_local = ":" not in os.path.splitdrive(place)[1]  # C: is a drive of Windows
        self.index = self._read_index()
        self.n_images = sum(chunk["chunk_size"] for chunk in self.index["chunks"])

    def version(self) -> str:
        content = json.dumps(self.index, sort_keys=True).encode()
        return f"{self.keys} {hashlib.blake2b(content, digest_size=8).hexdigest()}"

    def places(self) -> list[str]:
        return [os.path.realpath(self.place) if self.is_local else self.place.rstrip("/")]

    def read(self, share: Share, *, seed: int, epoch: int, skip: int) -> Iterator[Sample]:
        while True:
            dataset = self._open(share, seed=seed, epoch=epoch, skip=skip)
            is_empty, skip = True, 0
            for sample in self._samples(dataset):
                is_empty = False
                yield sample
            if is_empty:
                raise UserError(
                    f"{self.key}: process {share.rank}, of {share.world_size} from 0 on, gets none of the {self.n_images:,} "
                    "images; use fewer trainer.devices"
                )

    def read_in_order(self) -> Iterator[Sample]:
        return self._samples(self._open(Share(), seed=None))

    def _open(self, share: Share, *, seed: int | None, epoch: int = 0, skip: int = 0):
        """Return litdata's data set of one process, which returns images as they were written; `seed` None: not shuffled."""
        import litdata
        from litdata.streaming.serializers import BytesSerializer

        class Placed(litdata.StreamingDataset):
            """Return an item with its place: the number of its chunk, and its number in the chunk."""

            def __getitem__(self, index):
                return index.chunk_index, index.index, super().__getitem__(index)

        with self._errors():
            raw = {name: BytesSerializer() for name in IMAGE_FORMATS}  # instead of decoding them
            dataset = Placed(
                self.place, cache_dir=self.cache, shuffle=seed is not None, seed=seed or 0, serializers=raw
            )
            process = dataset.distributed_env  # found by litdata, replaced here: each process may want all of val
            process.global_rank, process.world_size, process.num_nodes = share
            dataset.set_drop_last(False)
            dataset.set_epoch(epoch + 1)  # it counts from 1
            if skip := skip % max(len(dataset), 1):  # `read` repeats the data set, so `skip` may be larger
                dataset.load_state_dict(dataset.state_dict(skip, 1, 1))
        return dataset

    def _samples(self, dataset) -> Iterator[Sample]:
        names, (image, label) = [chunk["filename"] for chunk in self.index["chunks"]], self.keys
        try:
            with self._errors():
                for chunk, number, item in dataset:
                    yield Sample(bytes(item[image]), str(item[label]), f"{names[chunk]}: item {number}")
        finally:  # litdata's thread would wait until the rest of the epoch is read
            thread = getattr(getattr(dataset.cache, "_reader", None), "_prepare_thread", None)
            if thread is not None:
                thread.force_stop()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Name the data set in any error inside, whose type depends on the content of a chunk and the cloud's library."""
        try:
            yield
        except Exception as error:
            raise UserError(
                f"{self.key}: cannot be read ({type(error).__name__}: {clean(error, 300)}); {AGAIN}"
            ) from error

    def _read_index(self) -> dict:
        """Return the index, checked before litdata opens anything that it names.

        Raises:
            UserError: there is no index, or values are not plain bytes, texts and numbers.
        """
        if self.is_local:
            folder = Path(self.place)
            if not (folder / INDEX).is_file():
                raise UserError(
                    f"{self.key}: no {INDEX} in it{relative_to(self.place)}; use a folder written by litdata.optimize, "
                    "or its URL"
                )
        else:
            import litdata

            with self._errors():  # downloads the index
                folder = Path(litdata.StreamingDataset(self.place, cache_dir=self.cache).input_dir.path)
        index = read_json(folder / INDEX, LARGEST_INDEX, AGAIN)
        try:
            self._check_format(index["config"])
            if not index["chunks"]:
                raise ValueError("it lists no chunks")
            for chunk in index["chunks"]:
                name, size = chunk["filename"], chunk["chunk_bytes"]
                if Path(name).name != name or type(chunk["chunk_size"]) is not int or chunk["chunk_size"] < 1:
                    raise ValueError(f"chunk {name!r} is malformed")
                if self.is_local and not (folder / name).is_file():  # litdata would wait for it
                    raise ValueError(f"{name} is missing")
                if self.is_local and not index["config"]["compression"] and (folder / name).stat().st_size < size:
                    raise ValueError(f"{name} is cut off")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{self.key}: {INDEX}: {clean(error, 300)}; {AGAIN}") from error
        return index

    def _check_format(self, config: dict) -> None:
        """Check that items are plain dicts of values that can be read without running code."""
        _, spec = json.loads(config["data_spec"])
        names, formats = json.loads(spec["context"]), [name.partition(":")[0] for name in config["data_format"]]
        is_flat = spec["type"] == "builtins.dict" and all(child["type"] is None for child in spec["children_spec"])
        if not is_flat or len(names) != len(formats) or any(config.get(name) != only for name, only in PLAIN.items()):
            raise ValueError("its items are not plain dicts, {'image': BYTES, 'label': NUMBER}")
        found = dict(zip(names, formats, strict=True))
        for key, setting, allowed in zip(self.keys, ("image", "label"), (IMAGE_FORMATS, LABEL_FORMATS), strict=True):
            if key not in found:
                raise ValueError(f"items have no {key}, only {join_words(names)}; use datamodule.source.{setting}=KEY")
            if found[key] not in allowed:
                wanted = "the content of an image file, as bytes" if setting == "image" else "a name or a number"
                raise ValueError(f"{key} is written as {found[key]}; write {wanted}")
        if odd := [name for name in formats if name not in (*IMAGE_FORMATS, *LABEL_FORMATS, *FURTHER_FORMATS)]:
            raise ValueError(f"items contain {odd[0]}, which cannot be read; remove it")
