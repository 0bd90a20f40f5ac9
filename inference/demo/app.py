"""The page of demo.py: images in, answers with their reasons out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.run_record import read_record
from common.text import clean, join_words, plural
from evaluation.intervals import format_accuracy
from inference.demo.server import gradio
from inference.explain.explainer import Explainer, FeatureIndex, open_images
from inference.explain.overlay import SMALL_SIDE, fit_for_page
from inference.explain.page import HERE, environment, page_items
from inference.image_inputs import ImageInput
from inference.predictor import Predictor
from inference.run_images import is_run, split_images
from reports.card_sections import SPLITS, measured

MOST = 16  # images at a time
MOST_EXAMPLES = 12


class Page(NamedTuple):
    """What `serving.serve` serves."""

    blocks: object
    css: str


class DemoApp:
    """A checkpoint behind a page, with examples and similar images from its run where they are there."""

    def __init__(self, checkpoint: Path, device: str):
        self.model = Predictor.from_checkpoint(checkpoint, device)
        self.explainer = Explainer(self.model)
        self.checkpoint = checkpoint
        training, reason = split_images(checkpoint, "train")
        self.gallery = FeatureIndex(self.explainer, training) if training else None
        self.similar = reason and f"No similar training images: {reason}."
        self.examples = self._examples()
        print(f"{plural(len(training), 'training source')} to compare with{f' ({reason})' if reason else ''}")

    def answer(self, files: Sequence[str] | str | None) -> str:
        """HTML for uploaded files."""
        files = [files] if isinstance(files, str) else list(files or [])
        return self.explain([ImageInput(Path(file).name, Path(file)) for file in files])

    def explain(self, sources: Sequence[ImageInput]) -> str:
        """HTML with an answer for each image."""
        answers = list(self.model.stream(sources[:MOST]))
        errors = [f"{each.path}: {said.error.removeprefix(f'{each.file}: ')}" for each, said in answers if said.error]
        height, width = self.explainer.map_size
        return environment().get_template("answer.html").render(
            items=list(page_items(self.explainer, self.gallery, [each for each in answers if not each[1].error])),
            errors=errors,
            excluded=max(0, len(sources) - MOST),
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
            files = gr.File(file_count="multiple", file_types=["image"], label="Images", elem_id="files")
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
        thumbnails = [fit_for_page(image, SMALL_SIDE) for _, image in self.examples]
        labels = [clean(source.label, 40) for source, _ in self.examples]
        gallery = gr.Gallery(
            list(zip(thumbnails, labels, strict=True)), label=f"{self.split.capitalize()} images of the run",
            columns=3, height="auto", object_fit="contain", allow_preview=False, interactive=False, elem_id="examples",
        )  # fmt: skip

        def chosen(event: gr.SelectData) -> str:
            return self.explain([self.examples[event.index][0]])

        gallery.select(chosen, None, answer, **alone)

    def _examples(self) -> list[tuple]:
        """Images of the run that it was not trained on, evenly taken, with their images."""
        for split in ("test", "val"):
            found, _ = split_images(self.checkpoint, split)
            if found:
                self.split = SPLITS[split]
                some = found[:: -(-len(found) // MOST_EXAMPLES)]
                images = open_images(some, SMALL_SIDE)
                return [(source, image) for source, image in zip(some, images, strict=True) if image]
        return []

    def _head(self) -> str:
        """What the network knows, and how well."""
        folder = self.checkpoint.resolve().parent.parent
        known = measured(read_record(folder / "result.json"))[:1] if is_run(folder) else []
        names = join_words([clean(name, 60) for name in self.model.classes], 12)
        accuracy = [f"Accuracy {SPLITS[split]}: {format_accuracy(section['accuracy'])}." for split, section in known]
        return environment().from_string(
            '<div class="why"><p><b>Drop images</b>: this network tells {{ names }} apart, and says one of them of anything '
            "else too.</p><p class='quiet'>{{ accuracy }}</p></div>"
        ).render(names=names, accuracy=" ".join(accuracy))  # fmt: skip
