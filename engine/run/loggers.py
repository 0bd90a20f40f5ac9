"""The run's loggers, any of Lightning's: built before images are read, given settings and results, closed at the end."""

import contextlib
import inspect
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import InstantiationException
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from common.errors import DISK_ERRORS, StopRequested, TrialPruned, UserError
from common.run_folder import shown_path
from common.run_record import RunRecord, flatten
from common.targets import resolve_target
from common.text import shell_quote
from common.untrusted.saved_config import read_typed
from engine.config.instantiate import instantiate
from lightning_modules.checkpoint import epochs_done

log = logging.getLogger(__name__)

Loggers = dict[str, Logger]  # by their keys: logger.csv
PATHS_OF_DATA = ("datamodule.root", "datamodule.table", "datamodule.source.path")
# Typed settings that do not compare runs: locations of files, and what is done around a training
NOT_COMPARED = (
    "ckpt_path", "stages", "logger", "deploy", "overview", "seeds", "good_enough", "register", "datamodule.cache",
    *PATHS_OF_DATA,
)  # fmt: skip
SQLITE = "sqlite:///"
# Lightning warns of a missing experiment, which is normal in a new store
logging.getLogger("lightning.pytorch.loggers.mlflow").addFilter(
    lambda line: "not found. Creating it" not in line.getMessage()
)


class TensorBoard(TensorBoardLogger):
    """Log to one event file directly in the run's folder, without version folders and without hparams.yaml.

    Lightning finalizes its loggers after each of fit, validate and test. This one then only flushes, since a closed writer
    would begin another file.

    Args:
        save_dir: folder of the event file.
        settings: further settings of TensorBoard's SummaryWriter, such as flush_secs.
    """

    def __init__(self, save_dir: str, **settings):
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **settings)
        self._is_folder = Path(save_dir).is_dir()  # true of the run's own folder

    @property
    def log_dir(self) -> str:
        """The folder of the event file; Lightning would replace $NAME and ~ even where a folder has that name."""
        return str(Path(self.save_dir, self.sub_dir or "")) if self._is_folder else super().log_dir

    def save(self) -> None:
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        with contextlib.nullcontext() if status == "success" else contextlib.suppress(OSError):  # a full disk
            self.save()


@contextlib.contextmanager
def open_loggers(config: DictConfig, record: RunRecord) -> Iterator[Loggers]:
    """Build and start the loggers of a run, and close them at the end, also after an error or a stop.

    Raises:
        UserError: a logger cannot be built or started; names its key.
    """
    resumes = config.ckpt_path is not None and "fit" in config.stages
    first_step = epochs_done(Path(config.ckpt_path)) + 1 if resumes else None
    loggers: Loggers = {}
    with _quiet_threads():
        try:
            for name in config.logger:
                if config.logger[name]:
                    loggers[f"logger.{name}"] = _start(config, f"logger.{name}", record, first_step)
            yield loggers
        except (StopRequested, TrialPruned):
            _close(loggers, "aborted")
            raise
        except BaseException:
            _close(loggers, "failed")
            raise
        _close(loggers, "success")


def _start(config: DictConfig, key: str, record: RunRecord, first_step: int | None) -> Logger:
    """Build and start a logger, so that a missing account or server ends the run before it reads images."""
    node = OmegaConf.select(config, key)
    try:
        logger = instantiate(config, key, **_given(key, node, record, first_step))
        if not isinstance(logger, Logger):
            raise UserError(
                f"{key}._target_={node._target_}: is not a Lightning logger; use a class of lightning.pytorch.loggers"
            )
        hasattr(logger, "experiment")  # Lightning's loggers start when this is accessed
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            raise
        raise UserError(f"{key}: cannot be started: {' '.join(str(cause).split())}") from error
    return logger


def _given(key: str, node: DictConfig, record: RunRecord, first_step: int | None) -> dict:
    """Return what the run decides for a logger where its settings do not: where to write, and under which name."""
    kind = resolve_target(node._target_, f"{key}._target_")
    folder = record.folder.path
    values = {"save_dir": str(folder)}
    if inspect.isclass(kind) and issubclass(kind, TensorBoardLogger) and first_step is not None:
        values["purge_step"] = first_step  # hides what was logged after this step before the interruption
    if inspect.isclass(kind) and issubclass(kind, WandbLogger):
        values["name"] = folder.name
    if inspect.isclass(kind) and issubclass(kind, MLFlowLogger):
        values["run_name"] = folder.name
        uri = str(node.get("tracking_uri") or "")
        if uri.startswith(SQLITE):  # the default would be ./mlruns in the current folder
            values["artifact_location"] = str(Path(uri.removeprefix(SQLITE)).parent / "mlartifacts")
    parameters = inspect.signature(kind).parameters
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    accepted = {*parameters, "purge_step"} if takes_more else {*parameters}
    return {name: value for name, value in values.items() if node.get(name) is None and name in accepted}


def _close(loggers: Loggers, status: str) -> None:
    """Close the loggers; warn of one that cannot be closed, since the run has ended already."""
    for key, logger in loggers.items():
        try:
            killed = status == "aborted" and isinstance(logger, MLFlowLogger)
            logger.finalize("KILLED" if killed else status)  # MLflow has its own words for a status
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.close()
            if isinstance(logger, WandbLogger):  # otherwise the next job of a sweep would log to the same run
                logger.experiment.finish(exit_code=int(status != "success"))
        except Exception as error:
            log.warning("%s: could not be closed (%s: %s)", key, type(error).__name__, error)


def log_settings(loggers: Loggers, config: DictConfig, record: RunRecord) -> None:
    """Log the run's settings and folder; TensorBoard gets only the compared settings, in `log_results`."""
    for logger in loggers.values() if record.writes else ():
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams({"run": str(record.folder.path), **_settings(config)})


@rank_zero_only
def log_results(loggers: Loggers, config: DictConfig, record: RunRecord, results: dict[str, float]) -> None:
    """Log the run's results at the epoch they belong to.

    In TensorBoard they appear only in the tab HParams, as columns beside the settings: as scalars, each would be a chart with
    one point.
    """
    for logger in loggers.values():
        if isinstance(logger, TensorBoardLogger):
            from torch.utils.tensorboard.summary import hparams  # late: a run may have no TensorBoard

            # Each run would have an experiment description of its own; without it, TensorBoard makes one for all runs, with
            # the columns of all, those that differ first
            _, *session = hparams({**compared_settings(config, record), **results}, {})
            for summary in session:
                logger.experiment._get_file_writer().add_summary(summary)
        else:
            logger.log_metrics(results, record.best.epoch if record.best else None)


def compared_settings(config: DictConfig, record: RunRecord) -> dict[str, int | float | str]:
    """Return the settings that compare runs: network, optimizer, learning rate, batch size, and those that were typed."""
    optimizer = record.run.choices.get("optimizer") or config.optimizer.get("_target_")
    found = {"model": config.model.name, "optimizer": optimizer}
    keys = [each.lstrip("+").partition("=")[0] for each in read_typed(record) if not each.startswith("~")]
    keys = ["optimizer.lr", "datamodule.batch_size", *keys]
    if any(key in PATHS_OF_DATA for key in keys):
        found["data"] = record.data.name
    for key in keys:
        if key not in found and not key.startswith(NOT_COMPARED) and key.partition(".")[0] in config:
            value = record.run.choices.get(key) or OmegaConf.select(config, key)
            plain = isinstance(value, (int, float)) and not isinstance(value, bool)
            found[key] = value if plain else str(value)
    return found


def _settings(config: DictConfig) -> dict[str, int | float | str]:
    settings = flatten(OmegaConf.to_container(config, resolve=True))
    return {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}


def how_to_view(loggers: Loggers) -> list[str]:
    """Return a line for each logger on how to view it; in the first process only."""
    lines = []
    for logger in loggers.values():
        if isinstance(logger, TensorBoardLogger):
            lines.append(f"TensorBoard: tensorboard --logdir {shell_quote(str(shown_path(Path(logger.log_dir))))}")
        elif isinstance(logger, MLFlowLogger):
            uri = logger.experiment.tracking_uri
            served = uri.startswith("http")
            lines.append(f"MLflow: {uri}" if served else f"MLflow: mlflow ui --backend-store-uri {shell_quote(uri)}")
        elif isinstance(logger, WandbLogger):
            run = logger.experiment
            folder = shell_quote(str(Path(run.dir).parent))
            lines.append(f"W&B: wandb sync {folder}" if run.offline else f"W&B: {run.url}")
    return lines


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Keep Python from printing the traceback of a full disk in TensorBoard's thread; the writer raises the error here."""
    usual = threading.excepthook

    def show(arguments: threading.ExceptHookArgs) -> None:
        if not (isinstance(arguments.exc_value, OSError) and arguments.exc_value.errno in DISK_ERRORS):
            usual(arguments)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = usual
