"""The page of demo.py: pictures in, answers with their reasons out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from callbacks.predicting.picture_classifier import Classifier
from callbacks.predicting.sources import Picture
from reports.card_figures import SPLITS, measured
from reports.records import read_record
from reports.statistics import accuracy_in_words
from reports.words import clean, listed, plural

from .drawing import SMALL_SIDE, shown
from .explainer import Explainer, Gallery, open_all
from .page import HERE, environment, items
from .run_pictures import is_run, split_of
from .serving import gradio

MOST = 16  # pictures at a time
MOST_EXAMPLES = 12


class Page(NamedTuple):
    """What `serving.serve` serves."""

    blocks: object
    css: str


class Demo:
    """A checkpoint behind a page, with examples and similar pictures from its run where they are there."""

    def __init__(self, checkpoint: Path, device: str):
        self.model = Classifier.from_checkpoint(checkpoint, device)
        self.explainer = Explainer(self.model)
        self.checkpoint = checkpoint
        training, reason = split_of(checkpoint, "train")
        self.gallery = Gallery(self.explainer, training) if training else None
        self.similar = reason and f"No similar training pictures: {reason}."
        self.examples = self._examples()
        print(f"{plural(len(training), 'training picture')} to compare with{f' ({reason})' if reason else ''}")

    def answer(self, files: Sequence[str] | str | None) -> str:
        """HTML for uploaded files."""
        files = [files] if isinstance(files, str) else list(files or [])
        return self.explain([Picture(Path(file).name, Path(file)) for file in files])

    def explain(self, pictures: Sequence[Picture]) -> str:
        """HTML with an answer for each picture."""
        answers = list(self.model.stream(pictures[:MOST]))
        errors = [f"{each.path}: {said.error.removeprefix(f'{each.file}: ')}" for each, said in answers if said.error]
        height, width = self.explainer.map_size
        return environment().get_template("answer.html").render(
            items=list(items(self.explainer, self.gallery, [each for each in answers if not each[1].error])),
            errors=errors,
            left_out=max(0, len(pictures) - MOST),
            most=MOST,
            map_size=f"{height} x {width} places",
            similar=self.similar,
        )  # fmt: skip

    def page(self) -> Page:
        """Gradio's blocks around `answer`."""
        gr = gradio()
        # One at a time: an explanation hooks itself into the network
        alone = {
            "concurrency_limit": 1,
            "concurrency_id": "network",
            "api_visibility": "private",
            "show_progress": "minimal",
        }
        with gr.Blocks(analytics_enabled=False, title="justenough") as blocks:
            gr.HTML(self._head())
            files = gr.File(file_count="multiple", file_types=["image"], label="Pictures", elem_id="files")
            with gr.Accordion("Use the camera", open=False):
                camera = gr.Image(sources=["webcam"], type="filepath", label="Camera")
            answer = gr.HTML(elem_id="answer")
            files.change(self.answer, files, answer, **alone)
            camera.change(self.answer, camera, answer, **alone)
            if self.examples:
                self._show_examples(gr, answer, alone)
        css = "".join((HERE / name).read_text(encoding="utf-8") for name in ("demo.css", "explained.css"))
        return Page(blocks, css)

    def _show_examples(self, gr, answer, alone: dict) -> None:
        thumbnails = [shown(image, SMALL_SIDE) for _, image in self.examples]
        labels = [clean(picture.label, 40) for picture, _ in self.examples]
        gallery = gr.Gallery(
            list(zip(thumbnails, labels, strict=True)), label=f"{self.split.capitalize()} pictures of the run",
            columns=3, height="auto", object_fit="contain", allow_preview=False, interactive=False, elem_id="examples",
        )  # fmt: skip

        def chosen(event: gr.SelectData) -> str:
            return self.explain([self.examples[event.index][0]])

        gallery.select(chosen, None, answer, **alone)

    def _examples(self) -> list[tuple]:
        """Pictures of the run that it was not trained on, evenly taken, with their images."""
        for split in ("test", "val"):
            found, _ = split_of(self.checkpoint, split)
            if found:
                self.split = SPLITS[split]
                some = found[:: -(-len(found) // MOST_EXAMPLES)]
                images = open_all(some, SMALL_SIDE)
                return [(picture, image) for picture, image in zip(some, images, strict=True) if image]
        return []

    def _head(self) -> str:
        """What the network knows, and how well."""
        folder = self.checkpoint.resolve().parent.parent
        known = measured(read_record(folder / "result.json"))[:1] if is_run(folder) else []
        names = listed([clean(name, 60) for name in self.model.classes], 12)
        accuracy = [f"Accuracy {SPLITS[split]}: {accuracy_in_words(section['accuracy'])}." for split, section in known]
        return environment().from_string(
            '<div class="why"><p><b>Drop pictures</b>: this network tells {{ names }} apart, and says one of them of anything '
            "else too.</p><p class='quiet'>{{ accuracy }}</p></div>"
        ).render(names=names, accuracy=" ".join(accuracy))  # fmt: skip
