"""Show the page of demo.py: images in, explained predictions out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from common.html import jinja_environment
from common.image_grid import thumbnail
from common.run_record import RunRecord
from common.text import SPLIT_NAMES, clean, join_words, plural
from datamodules.sources.image_folder import SUFFIXES
from evaluation.describe import describe_accuracy, name_accuracy
from inference.arguments import checkpoint_argument
from inference.demo import server
from inference.explain import page as explained_page
from inference.explain.explainer import Explainer, FeatureIndex, open_images
from inference.image_inputs import ImageInput, run_of_checkpoint, split_images
from inference.predictor import Predictor

TEMPLATES = Path(__file__).parent
MOST = 16  # images at a time
MOST_EXAMPLES = 12


class Page(NamedTuple):
    """Hold what `server.serve` serves."""

    blocks: object
    css: str


def run(config: DictConfig) -> None:
    """Serve the page until it is stopped with Ctrl-C.

    Raises:
        UserError: no checkpoint, no gradio, or no such host or port.
    """
    checkpoint = checkpoint_argument(config.ckpt)
    server.check_address(config.host, config.port, config.share)
    server.import_gradio()
    page = DemoApp(checkpoint, str(config.device), list(config.register)).page()
    server.serve(page, host=config.host, port=config.port, share=config.share)


class DemoApp:
    """Predict and explain uploaded images, with examples and similar images from the checkpoint's run where it has one."""

    def __init__(self, checkpoint: Path, device: str, register: Sequence[str] = ()):
        self.model = Predictor.from_checkpoint(checkpoint, device, register)
        self.explainer = Explainer(self.model)
        self.checkpoint = checkpoint
        self.environment = jinja_environment(TEMPLATES, explained_page.TEMPLATES)
        training, reason = split_images(checkpoint, "train")
        self.feature_index = FeatureIndex(self.explainer, training) if training else None
        self.similar = reason and f"No similar training images: {reason}."
        self.examples = self._examples()
        print(f"{plural(len(training), 'training image')} to compare with{f' ({reason})' if reason else ''}")

    def predict(self, files: Sequence[str] | str | None) -> str:
        """Return HTML for uploaded files."""
        files = [files] if isinstance(files, str) else list(files or [])
        return self.explain([ImageInput(Path(file).name, Path(file)) for file in files])

    def explain(self, images: Sequence[ImageInput]) -> str:
        """Return HTML with an explained prediction for each image."""
        predictions = list(self.model.stream(images[:MOST]))
        readable = [entry for entry in predictions if not entry[1].error]
        return self.environment.get_template("prediction.html").render(
            items=list(explained_page.page_items(self.explainer, self.feature_index, readable)),
            errors=[
                f"{image_input.path}: {prediction.error.removeprefix(f'{image_input.file}: ')}"
                for image_input, prediction in predictions
                if prediction.error
            ],
            n_skipped=max(0, len(images) - MOST),
            most=MOST,
            map_size=self.explainer.map_size,
            similar=self.similar,
        )

    def page(self) -> Page:
        """Return gradio's blocks around `predict`."""
        gr = server.import_gradio()
        # One at a time: an explanation hooks itself into the network
        exclusive = {
            "concurrency_limit": 1,
            "concurrency_id": "network",
            "api_visibility": "private",
            "show_progress": "minimal",
        }
        with gr.Blocks(analytics_enabled=False, title="justenough") as blocks:
            gr.HTML(self.head())
            files = gr.File(
                file_count="multiple", file_types=["image", *sorted(SUFFIXES)], label="Images", elem_id="files"
            )
            with gr.Accordion("Use the camera", open=False):
                camera = gr.Image(sources=["webcam"], type="filepath", label="Camera")
            output = gr.HTML(elem_id="prediction")
            files.change(self.predict, files, output, **exclusive)
            camera.change(self.predict, camera, output, **exclusive)
            if self.examples:
                self._show_examples(gr, output, exclusive)
        files = (TEMPLATES / "demo.css", explained_page.TEMPLATES / "explained.css")
        return Page(blocks, "".join(file.read_text(encoding="utf-8") for file in files))

    def _show_examples(self, gr, output, exclusive: dict) -> None:
        captioned = [(image, clean(image_input.label, 40)) for image_input, image in self.examples]
        gallery = gr.Gallery(
            captioned, label=f"{self.examples_split.capitalize()} images of the run",
            columns=3, height="auto", object_fit="contain", allow_preview=False, interactive=False, elem_id="examples",
        )  # fmt: skip

        def explain_example(event: gr.SelectData) -> str:
            return self.explain([self.examples[event.index][0]])

        gallery.select(explain_example, None, output, **exclusive)

    def _examples(self) -> list[tuple]:
        """Return evenly spaced images of the run that it was not trained on, with their thumbnails."""
        side = explained_page.SIMILAR_SIDE
        for split in ("test", "val"):
            found, _ = split_images(self.checkpoint, split)
            if found:
                self.examples_split = SPLIT_NAMES[split]
                chosen = found[:: -(-len(found) // MOST_EXAMPLES)]
                opened = zip(chosen, open_images(chosen, self.model.description, side), strict=True)
                return [(image_input, thumbnail(image, side)) for image_input, image in opened if image]
        return []

    def head(self) -> str:
        """Return HTML with the classes of the network and its accuracy."""
        run = run_of_checkpoint(self.checkpoint)
        accuracy = ""
        for split in ("val", "test") if run else ():
            metrics = getattr(RunRecord.read(run), split)
            if metrics and metrics.accuracy:
                accuracy = f"{name_accuracy(metrics, SPLIT_NAMES[split])}: {describe_accuracy(metrics)}."
        classes = join_words([clean(name, 60) for name in self.model.classes], 12)
        return self.environment.get_template("head.html").render(classes=classes, accuracy=accuracy)
