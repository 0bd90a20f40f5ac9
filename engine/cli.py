"""Run a root script: complete its command line, name its folders, show errors and set the exit status. Imports no torch."""

import argparse
import contextlib
import filecmp
import functools
import hashlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from common.errors import StopRequested, UserError
from common.flags import config_dir, networks_asked_for, own_folders, split_flags
from common.idle import warn_of_idle, warn_of_repeated
from common.processor_time import own_cores
from common.progress import Progress
from common.run_folder import OUTPUTS, PROJECT, RunFolder, missing_folders, remove_empty
from common.run_record import RunRecord, refuse_older_run
from common.signals import repeat_lost_stops
from common.text import did_you_mean, plural, printable, quote_override
from common.untrusted.saved_config import choices_of_several, read_saved_choices, read_saved_name
from engine import help, log_handlers
from engine.config import data_overrides
from engine.config.instantiate import OF_SEVERAL
from engine.error_messages import PLACES, user_message
from engine.hints import CONF, keys_called, suggest
from engine.idle_in_verb import idle_in_verb
from engine.process_tuning import tune_process
from engine.processes import (
    FirstProcessFailed,
    Process,
    ShownElsewhere,
    agreed_error,
    launched_process,
    process_of_run,
    share,
    starts_processes,
)
from engine.run.component_errors import component_error
from engine.run.job import Job, run_job
from engine.run.job_state import refuse_finished_run
from engine.run.resume import network_of_checkpoint, run_to_resume
from engine.state import STATE, FailedJob, resume_advice
from engine.sweep import ray_launcher
from engine.sweep.progress import SweepProgress

log = logging.getLogger(__name__)

LONGEST_NAME = 90  # characters of a folder
PATHS = (
    *data_overrides.PATHS, "hydra.run.dir", "hydra.sweep.dir", "ckpt_path", "teacher", "datamodule.source.path",
    "datamodule.source.train", "datamodule.source.val", "datamodule.source.test",
    "datamodule.cache", "ckpt", "images", "root", "runs", "out", "model.weights",
)  # fmt: skip
MULTIRUN = ("-m", "--multirun")
# What may change when a sweep resumes: how and where its jobs run, what its page accepts and measures, where the cache is
MAY_DIFFER = re.compile(
    r"(hydra/launcher|hydra/jobs|hydra\.launcher\.[^=]+|good_enough|deploy|overview|datamodule\.(cache|cache_max_gib|gpu_cache_gib))="
)
TRACEBACK = "JUSTENOUGH_TRACEBACK"
SMALLEST = "smallest.py"
SEARCHES = OUTPUTS / "searches"
# What may change when smallest.py resumes: its budget, and how its runs are spread over processes
MAY_DIFFER_IN_SMALLEST = re.compile(r"(budget\.minutes|workers|storage)=")


@repeat_lost_stops()
def run_cli(main: Callable[[], None]) -> None:
    """Run a root script's `main` on the completed command line; exit with a message and a status where it fails."""
    tune_process()
    script = Path(sys.argv[0]).name
    resumes = bool(set(MULTIRUN) & set(sys.argv)) or script in (SMALLEST, "search.py")  # if typed again
    STATE.command, STATE.made_folders = ["python", script, *sys.argv[1:]], []
    STATE.process, is_of_lightning = Process(), TRACEBACK in os.environ and "LOCAL_RANK" in os.environ
    log_handlers.protect_screen()
    # What the user asked for; processes that this command starts find Hydra's variable already set by the next line
    wants_traceback = os.environ.setdefault(TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
    warnings.showwarning = log_handlers.log_python_warning
    try:
        _check_folders()
        found = launched_process()
        if "LOCAL_RANK" in os.environ and not found.launcher and not is_of_lightning:
            raise UserError(
                f"LOCAL_RANK={os.environ['LOCAL_RANK']}: is set, but neither torchrun nor srun has started this process; "
                "unset LOCAL_RANK"
            )
        STATE.process = Process() if found.launcher == "srun" else found
        if script != "train.py" and set(MULTIRUN) & set(sys.argv):
            raise UserError(f"-m: {script} does not sweep; python train.py -m ... does")
        if script == "train.py" and (asked := networks_asked_for(sys.argv[1:])) is not None:
            from engine.networks_help import print_networks  # late: it imports torch

            print_networks(asked)
            return
        if found.launcher or not is_of_lightning:  # Lightning starts its processes with complete arguments
            sys.argv[1:] = complete_overrides(sys.argv[1:])
        main()
        if len(STATE.failed) == 1 and not STATE.failed[0].in_sweep:
            raise STATE.failed[0].error
    except StopRequested as stopped:
        if not STATE.process.is_first:
            sys.exit(0)  # with another status, the launcher would kill the first process before it shows this
        print(f"stopped by {stopped}{stopped.next_step or resume_advice(STATE.command) * resumes}", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        print("stopped" + resume_advice(STATE.command) * resumes, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not STATE.failed:  # a failed job has called agreed_error already
            error = agreed_error(STATE.process, error, user_message(error))
        if isinstance(error, FirstProcessFailed | ShownElsewhere):
            sys.exit(1)
        message = user_message(error)
        if wants_traceback or message is None:
            raise error
        print(f"ERROR: {printable(message)}", file=sys.stderr)
        sys.exit(1)
    finally:
        Progress.screen_s = None
        remove_empty(STATE.made_folders)
    if STATE.failed:
        count, names = plural(len(STATE.failed), "job"), ", ".join(failed.name for failed in STATE.failed)
        print(f"ERROR: {count} failed: {names}. Rerun the same command to retry only these", file=sys.stderr)
        sys.exit(1)


def _check_folders() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder was removed; change to another one: cd DIR") from error
    if not CONF.is_dir():
        raise UserError(
            f"{CONF}: no such folder; pip install without -e does not copy it; run in a clone: pip install -e ."
        )


def _warn_of_encoding() -> None:
    """Warn where Python cannot open the files of a table in UTF-8, as with LC_ALL=C and PYTHONUTF8=0."""
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        log.warning("file names are read as %s: files that a table names in other letters are not found; set PYTHONUTF8=1",
                    encoding)  # fmt: skip


@contextlib.contextmanager
def keep_error(name: str, config: DictConfig) -> Iterator[None]:
    """Keep an error of the root script's own work for `run_cli`, since Hydra would print more around it."""
    _warn_of_encoding()
    warn_of_repeated(STATE.command)
    if idle := idle_in_verb(name, config):
        warn_of_idle(HydraConfig.get().overrides.task, idle)
    try:
        yield
    except Exception as error:
        folder = Path(HydraConfig.get().run.dir).absolute()  # Hydra creates it; for A/../B also A
        STATE.made_folders += [folder, *(each for each in folder.parents if each.is_relative_to(SEARCHES))]
        STATE.failed = [FailedJob(name, component_error(error, config) or error, in_sweep=False)]


def run_hydra_job(config: DictConfig, run: Callable[[DictConfig, RunRecord], None]) -> None:
    """Run the job that Hydra starts, single or in a sweep; keep its error for `run_cli`, so that Hydra can finish."""
    tune_process()  # a process that a launcher has started did not pass through run_cli
    log_handlers.protect_screen()
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    STATE.process = process_of_run(config.trainer.strategy, in_sweep=in_sweep)
    log_handlers.silence_further_process(STATE.process.rank)
    progress = SweepProgress.of(folder.parent) if in_sweep else None
    side_by_side = in_sweep and starts_processes(hydra_config.launcher)
    if side_by_side:
        log_handlers.prefix_log_lines(folder.name)
    if progress:
        log.info("\nJob %d of %d: %s", hydra_config.job.num + 1, progress.jobs, folder.name)
    _warn_of_encoding()
    if STATE.data_source:
        log.info(STATE.data_source)
    overrides = list(hydra_config.overrides.task)
    job = Job(
        folder=RunFolder(folder),
        command=progress.command if progress else STATE.command,
        overrides=overrides,
        choices={**hydra_config.runtime.choices, **choices_of_several(overrides)},
        hydra=HydraConfig.instance().cfg,
        in_sweep=in_sweep,
        side_by_side=side_by_side or bool(progress and progress.is_training(beside=folder)),
    )
    error = run_job(job, config, run)
    if error is not None:
        STATE.failed.append(FailedJob(folder.name, error, in_sweep))
    if progress:
        log.info(progress.describe())
    STATE.started_s = time.perf_counter()  # the next job of the sweep starts its clock here


def complete_overrides(arguments: list[str]) -> list[str]:
    """Add the folder of the run or sweep and, with a checkpoint, the choices of its run, unless the user gave them.

    Raises:
        UserError: an argument that Hydra would misread or for which it has no message, a checkpoint that does not exist or
            that this version cannot read, or a folder with a finished run.
    """
    flags, typed = split_flags(arguments)
    for argument in typed:
        _check_path(argument)
    typed = [data_overrides.expand_home(argument) for argument in typed]
    typed, STATE.data_source = data_overrides.complete_data(typed, config_dir(arguments))
    _check_flags(flags, typed)
    try:
        overrides = OverridesParser.create().parse_overrides(typed)
    except OverrideParseException:
        return [*flags, *typed]  # Hydra reports it
    values = {override.key_or_group: override for override in overrides}
    _check_overrides(values)
    plain = {key: override.value() for key, override in values.items() if not override.is_sweep_override()}
    script, added = Path(sys.argv[0]).name, []
    if script == SMALLEST:
        added += [] if "name" in values else [f"name={smallest_name([*flags, *typed], values)}"]
    elif "hydra.sweep.dir" not in values:
        added.append(quote_override("hydra.sweep.dir", OUTPUTS / "sweeps" / sweep_name([*flags, *typed], overrides)))
    launcher, run_dir, ckpt_path = (plain.get(key) for key in ("hydra/launcher", "hydra.run.dir", "ckpt_path"))
    if launcher == "ray":
        ray_launcher.register()
    if (CONF / "hydra" / "jobs" / f"{launcher}.yaml").is_file():
        added.append(f"hydra/jobs={launcher}")  # a plugin's file cannot be extended under its own name
    run, network = None, []
    if script == "train.py" and "ckpt_path" in values:
        run = run_to_resume(Path(ckpt_path)) if isinstance(ckpt_path, str) else None
        network = _network_of_checkpoints(values) if run is None else []
    same_in_all_jobs = [*plain, *(setting.partition("=")[0] for setting in network)]
    added.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same_in_all_jobs)}]")
    if isinstance(run_dir, str) and "ckpt_path" not in values:
        refuse_finished_run(RunFolder(Path(run_dir)))
    if run is not None:
        added = _of_run(run, ckpt_path, values, added, bool(own_folders(arguments)))
    return [*flags, *typed, *network, *added]  # flags first: argparse does not find them between overrides


def _network_of_checkpoints(values: dict[str, Override]) -> list[str]:
    """Return the settings of the network in a checkpoint without its run, or in all of those that `ckpt_path` sweeps over.

    Raises:
        UserError: one of these does not exist, or they would need different settings.
    """
    networks = [
        network_of_checkpoint(Path(path), values) if isinstance(path, str) and not run_to_resume(Path(path)) else []
        for path in _values_of(values["ckpt_path"])
    ]
    if any(network != networks[0] for network in networks):
        raise UserError(
            f"{values['ckpt_path'].input_line}: some of these checkpoints are not in the folders of their runs, which hold the "
            "settings of their networks, and the jobs need different ones; run each by itself, without -m"
        )
    return networks[0] if networks else []


def _check_overrides(values: dict[str | None, Override]) -> None:
    """Raise UserError for a setting that Hydra would misread or for which it has no message."""
    if None in values or "" in values:
        raise UserError(
            f"{values.get('', values.get(None)).input_line}: a key is missing before =; KEY=VALUE, see --help"
        )
    script = Path(sys.argv[0]).name
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if key in values and script in PLACES:
            raise UserError(
                f"{values[key].input_line}: {script} has no run folder; choose where it writes with {PLACES[script]}"
            )
    if script in ("search.py", SMALLEST) and "hydra.sweep.dir" in values:  # train.py: see SweepReport
        raise UserError(
            f"{values['hydra.sweep.dir'].input_line}: is for a sweep of train.py (-m); for {script} use hydra.run.dir=DIR"
        )
    for key, override in values.items():
        if override.is_delete() and re.fullmatch(r"\w+", key) and not (CONF / key).is_dir():
            known = OmegaConf.load(CONF / f"{Path(script).stem}.yaml")
            if key not in known:
                raise UserError(f"{override.input_line}: no such setting in {script}, so there is nothing to remove")
            inner = f".{next(iter(known[key]))}" if OmegaConf.is_dict(known[key]) else ""
            raise UserError(f"{override.input_line}: cannot be removed; leave this out, or set {key}{inner}=VALUE")
        if re.match(r"default_space\.\w+\.", key):  # Hydra takes its keys, which contain dots, apart
            raise UserError(
                f"{override.input_line}: a key with dots cannot be changed by itself; give the whole space: "
                "'space={optimizer.lr:{low:1e-4,high:1e-2,log:true},datamodule.batch_size:[8,16]}'"
            )
        check_choice(key, override)
        if key.startswith("hydra.sweeper.params"):
            raise UserError(f"{override.input_line}: is set by files; type what to sweep: python train.py -m seed=1,2")


def _check_flags(flags: list[str], typed: list[str]) -> None:
    """Raise UserError where a setting is typed as a flag, as in other programs (--epochs 3), or a flag lacks what it needs."""
    known = get_args_parser()._option_string_actions
    names = {_without_value(flag, known) for flag in flags}
    if names & {"-p", "--package"} and not names & {"-c", "--cfg"}:  # Hydra would ignore it and train
        raise UserError("-p: shows a part of the settings: python train.py --cfg job -p datamodule")
    if {"-sc", "--shell-completion"} & names and not any("install=" in each or "query=" in each for each in typed):
        raise UserError("-sc: needs the name of a shell: python train.py -sc install=bash")
    if (own := config_dir(flags)) and not Path(own).is_dir():
        raise UserError(f"--config-dir={own}: no such folder; give the folder that holds model/NAME.yaml and the like")
    for file in sorted(CONF.rglob("*.yaml")) if own else ():  # not of their folder, which may hold all images, too
        same = Path(own, file.relative_to(CONF))
        if same.is_file() and not filecmp.cmp(file, same, shallow=False):
            name = file.relative_to(CONF)
            raise UserError(
                f"--config-dir={own}: {name} has the name of a file of conf/, which would be read in its place; rename it"
            )
    for flag in flags:
        name = _without_value(flag, known)
        is_known = any(option.startswith(name) for option in known) if flag.startswith("--") else name in known
        if re.match("--?[A-Za-z]", flag) and not is_known:
            setting, value = name.lstrip("-").replace("-", "_"), flag.partition("=")[2] or "VALUE"
            verb, keys = Path(sys.argv[0]).stem, []
            if (CONF / f"{verb}.yaml").is_file():
                with initialize_config_dir(str(CONF), version_base="1.3"):
                    keys = keys_called(setting, compose(verb))
            if not keys:
                raise UserError(f"{name}: no such flag or setting; see --help")
            raise UserError(f"{name}: settings have no dashes: {suggest(keys, value).removesuffix('?')}; see --help")


def _without_value(flag: str, known: Mapping[str, argparse.Action]) -> str:
    """Return a flag without its value, which argparse also takes joined to one letter: -cjob, -iall, -pmodel.head."""
    letter, value = flag[:2], flag[2:]
    is_shown = letter == "-p" and (CONF / value.partition(".")[0]).is_dir()
    is_joined = value and (is_shown or value in (getattr(known.get(letter), "choices", None) or ()))
    return letter if is_joined else flag.partition("=")[0]


def _check_path(argument: str) -> None:
    """Raise UserError for an empty path, which would mean the current folder."""
    key, separator, value = argument.lstrip("+").partition("=")
    if key in PATHS and separator and not value.strip().strip("'\"").strip():
        raise UserError(f"{key}=: has no value (is a shell variable unset?); give a path, or leave {key} out")


def _of_run(run: RunFolder, ckpt_path: str, values: dict[str, Override], added: list[str], with_own: bool) -> list[str]:
    """Return `added` with the folder and the choices of the run that a checkpoint belongs to.

    Args:
        with_own: whether the command names a folder of the user's own configuration files.

    Raises:
        UserError: the run took a file from a folder that this command does not name.
    """
    refuse_older_run(run)
    resumes = "stages" not in values or "fit" in str(values["stages"].value())
    if "hydra.run.dir" not in values:
        name = safe_name(read_saved_name(run, values))
        own = quote_override("hydra.run.dir", run.path)
        added.append(own if resumes else f'hydra.run.dir="${{new_run_dir:{name},${{trainer.strategy}}}}"')
    choices = read_saved_choices(run).items()  # with them, single settings on the command line find their groups
    chosen = [(group, name) for group, name in choices if group not in values]
    for group, name in chosen:
        files = [CONF / group / f"{each}.yaml" for each in re.findall(r"[\w-]+", name)]  # a list names several
        if not with_own and (CONF / group).is_dir() and not all(file.is_file() for file in files):
            raise UserError(
                f"ckpt_path={ckpt_path}: its run took {group}={name} from your own configuration files; add --config-dir=DIR"
            )
    return [*(f"{group}={name}" for group, name in chosen), *added]


def check_choice(key: str, override: Override) -> None:
    """Raise UserError where a group gets no name (null), a list where it takes one name, or a name twice."""
    folder = CONF / key
    if not re.fullmatch(r"[\w/]+", key) or not folder.is_dir() or override.is_delete():
        return
    for choice in _values_of(override):
        listed = [str(each) for each in choice] if isinstance(choice, list) else []
        if len(set(listed)) < len(listed):
            raise UserError(f"{override.input_line}: names a file twice")
        if isinstance(choice, list) and key not in OF_SEVERAL:
            raise UserError(f"{override.input_line}: {key} takes one choice; {', '.join(OF_SEVERAL)} take several")
        if not isinstance(choice, (str, list)) or not all(isinstance(each, str) for each in choice):
            names = [path.stem for path in folder.glob("*.yaml")]
            raise UserError(f"{override.input_line}: no such choice; {did_you_mean('none', names)}")


def _values_of(override: Override) -> list:
    """Return the value of an override, or those that it sweeps over, except glob(*) and an interval, which list none."""
    if not override.is_sweep_override():
        return [override.value()]
    listed = override.is_discrete_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP
    return [*map(override._convert_value, override.sweep_iterator())] if listed else []


def sweep_name(arguments: list[str], overrides: list[Override]) -> str:
    """Name a sweep by its experiment or its swept keys, with a hash of the arguments: the same command, the same sweep.

    An experiment without further arguments has no hash. The hash leaves out what may differ when a sweep resumes (MAY_DIFFER),
    and `seeds` where the experiment has seeds, so that further seeds are added to the same sweep.
    """
    experiment = next((o for o in overrides if o.key_or_group == "experiment" and not o.is_sweep_override()), None)
    of_name = (*MULTIRUN, experiment.input_line) if experiment else ()
    file = data_overrides.experiment_file(str(experiment.value()), config_dir(arguments)) if experiment else None
    if file and re.search("^seeds:", file.read_text(encoding="utf-8"), re.MULTILINE):
        of_name += tuple(override.input_line for override in overrides if override.key_or_group == "seeds")
    hashed = sorted(a for a in arguments if a not in of_name and not MAY_DIFFER.match(a.lstrip("+")))
    swept = "_".join(override.key_or_group.split(".")[-1] for override in overrides if override.is_sweep_override())
    name = str(experiment.value()) if experiment else swept or "sweep"
    return safe_name(name if experiment and not hashed else f"{name}-{_short_hash(hashed)}")


def smallest_name(arguments: list[str], values: dict[str, Override]) -> str:
    """Name a search for the smallest network by its data, with a hash of the arguments: the same command, the same search."""
    hashed = sorted(a for a in arguments if not MAY_DIFFER.match(a.lstrip("+")) and not MAY_DIFFER_IN_SMALLEST.match(a))
    hashed += [argument for argument in arguments if argument.startswith("good_enough=")]
    given = {key: values[key].value() for key in ("datamodule.root", "datamodule.table", "datamodule") if key in values}
    data = Path(str(next(iter(given.values()), "elpv"))).stem
    return safe_name(f"{data}-{_short_hash(hashed)}" if hashed else data)


def safe_name(text: str) -> str:
    """Return `text` in [A-Za-z0-9._-] and at most LONGEST_NAME characters, with a hash where that changes it."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    if safe and safe == re.sub("[=,]", "-", text) and len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[: LONGEST_NAME - 9]}-{_short_hash([text])}".lstrip("-")


def _short_hash(texts: list[str]) -> str:
    """Return 8 hex digits that name these texts in their order."""
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogateescape"), digest_size=4).hexdigest()


def job_dir_name(overrides: list[str], same_in_all_jobs: list[str]) -> str:
    """Name a job by its swept values, with the last word of each key: `batch_size-16_lr-0.1`."""
    given = [override.lstrip("+~").partition("=") for override in overrides]
    parts = [f"{key.split('.')[-1]}-{value}" for key, _, value in given if key not in same_in_all_jobs]
    return safe_name("_".join(parts) or "job")


@functools.cache
def new_run_dir(model: object, strategy: str = "auto") -> str:
    """Return outputs/MODEL/DATE_TIME: unique even for runs of the same second, and the same in all processes of a run.

    Args:
        model: `model.name`; what is not a text is refused later, in words.
        strategy: `trainer.strategy`.
    """
    process = process_of_run(strategy)
    return share(process, "folder", _make_run_dir(model) if process.is_first else None)


def _make_run_dir(model: object) -> str:
    stem = OUTPUTS / safe_name(str(model)) / time.strftime("%Y-%m-%d_%H-%M-%S")
    for count in range(1, 1000):
        folder = stem if count == 1 else stem.with_name(f"{stem.name}-{count}")
        missing = missing_folders(folder)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            STATE.made_folders += missing
            return str(folder)
    raise UserError(f"{stem}: a thousand runs started in one second; wait a second")


def threads_of_job(jobs: int) -> int:
    """Return each job's share of the cores where `jobs` run at a time; -1: as many jobs as cores."""
    return max(1, len(own_cores()) // jobs) if jobs > 0 else 1


def gpus_of_job() -> int:
    """Return 1 where NVIDIA's driver shows a GPU, else 0; without importing torch."""
    return int(any(Path("/proc/driver/nvidia/gpus").glob("*")))


OmegaConf.register_new_resolver("new_run_dir", new_run_dir)
OmegaConf.register_new_resolver("job_dir_name", job_dir_name)
OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path))
OmegaConf.register_new_resolver("rounded_quotient", lambda dividend, divisor: round(dividend / divisor))
OmegaConf.register_new_resolver("threads_of_job", threads_of_job)
OmegaConf.register_new_resolver("gpus_of_job", gpus_of_job)
OmegaConf.register_new_resolver("help_groups", lambda verb: help.help_groups(CONF, verb, config_dir(sys.argv[1:])))
OmegaConf.register_new_resolver("help_settings", lambda verb: help.help_settings(CONF, verb))
