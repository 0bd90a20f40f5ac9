"""Import what a user names, a class or function by its full name, or an optional package; find where such code has failed."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import traceback
from collections.abc import Callable, Set
from pathlib import Path

from common.errors import UserError
from common.text import did_you_mean


def resolve_target(name: object, key: str) -> Callable:
    """Import a class or function that the user names; never use it for a name in an untrusted file.

    Args:
        name: package.module.Class.
        key: of the setting, for messages.

    Raises:
        UserError: no such name, or it is neither a class nor a function.
    """
    shown = f"{key}={str(name)[:100]}"
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(name), re.ASCII):
        raise UserError(f"{shown}: use the full name of a class, such as torch.optim.Adam")
    try:
        found = pkgutil.resolve_name(name)
    except ImportError as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == str(name).split(".")[0]:
            hint = "; install its package, or add its folder to PYTHONPATH"
        raise UserError(f"{shown}: cannot be imported ({error}){hint}") from error
    except SyntaxError as error:
        raise UserError(f"{shown}: {error.filename}, line {error.lineno}: {error.msg}; correct it") from error
    except AttributeError as error:
        parent = getattr(error.obj, "__name__", name.rpartition(".")[0])
        if error.name != name.rpartition(".")[2]:
            try:  # again, with a colon: as a module, which gives the reason
                pkgutil.resolve_name(f"{parent}.{error.name}:")
            except ImportError as cause:
                is_missing = isinstance(cause, ModuleNotFoundError)  # else there is a circular import, or no such name
                if not is_missing or cause.name != f"{parent}.{error.name}":
                    hint = "install what it imports" if is_missing else "correct its imports"
                    raise UserError(f"{shown}: cannot be imported ({cause}); {hint}") from cause
            raise UserError(f"{shown}: {parent} has no module {error.name}; check the name") from error
        own = [n for n, v in inspect.getmembers(error.obj, inspect.isfunction) if v.__module__ == parent]
        names = [n for n in (*dict(inspect.getmembers(error.obj, inspect.isclass)), *own) if not n.startswith("_")]
        allowed = did_you_mean(error.name, names) if names else "check the name"
        raise UserError(f"{shown}: not found in {parent}; {allowed}") from error
    if not callable(found):
        raise UserError(
            f"{shown}: is neither a class nor a function; use the full name of one, such as torch.optim.Adam"
        )
    return found


def import_extra(package: str, wanted_by: str, extra: str):
    """Import a package that belongs to an extra of this project; `extra` "": to none.

    Raises:
        UserError: as `not_installed`.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise not_installed(package, wanted_by, extra) from error


def check_installed(package: str, wanted_by: str, extra: str) -> None:
    """Check that a package is there without the time that its import takes; arguments and error as of `import_extra`."""
    try:
        found = importlib.util.find_spec(package)
    except ImportError:  # its parent package is not installed
        found = None
    if found is None:
        raise not_installed(package, wanted_by, extra)


def not_installed(package: str, wanted_by: str, extra: str) -> UserError:
    """Return the error that names a missing package and the command that installs it."""
    install = f'-e ".[{extra}]"' if extra else package
    return UserError(f"{wanted_by}: {package} is not installed; install it with pip install {install}")


def raised_in(error: BaseException, packages: Set[str]) -> tuple[str, str] | None:
    """Return module and place (`cells.py, line 3`) of the innermost frame of an error that belongs to one of these packages.

    Modules decide, not paths: the libraries of an environment may be in the folder of a package.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.split(".")[0] in packages:
            return module, f"{Path(frame.f_code.co_filename).name}, line {line}"
    return None
