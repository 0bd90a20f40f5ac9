"""Format numbers, lists and untrusted text for readers, and values for Hydra's command line."""

import difflib
import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence

SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
CONTROL = dict.fromkeys((*range(32), 127, *range(128, 160), 8232, 8233), " ")
CONTROL |= dict.fromkeys((*range(8234, 8239), *range(8294, 8298)), "")  # these reverse the order of letters
PLAIN = re.compile(r"([A-Za-z_/]|\.{1,2}/)[A-Za-z0-9_./-]*")  # needs no quotes on Hydra's command line
UNQUOTED = re.compile(r"[\w@+=:./\\-]+", re.ASCII)  # needs no quotes in the shells of Windows
HYDRA_WORDS = {"null", "true", "false", "nan", "inf"}  # not read as text there, in upper or lower case
MOST_ALLOWED, MOST_BESIDE_GUESS = 60, 20  # names in a message
BACKBONE = "model.backbone"
OWN_KEYS = ("model.network", "model.head.name", BACKBONE)  # settings that may name the user's own code
TIMM_TAG = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")  # architecture.tag
SPLIT_NAMES = {"val": "validation", "test": "test"}  # as texts name them


def finite_number(value) -> float | int | None:
    """Return the value if it is a finite number, else None, since records hold null for NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def numeral(text: str) -> float | None:
    """Return the number that a setting's text stands for, such as `1e-05`; None if it is not a number."""
    return float(text) if NUMERAL.fullmatch(text) else None


def compact_count(value: float | None) -> str:
    """Return three digits and a suffix, `38.9M`; a dash for None."""
    if value is None:
        return "-"
    for size, suffix in SUFFIXES:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """Return `12.2 ms`; a dash for None."""
    if value is None or value < 999.5:
        return "-" if value is None else f"{value:.3g} ms"
    return f"{value / 1000:.3g} s" if value < 999_500 else f"{value / 1000:,.0f} s"


def file_size(n_bytes: float) -> str:
    """Return `246 KiB`, `12.3 MiB`, `1.2 GiB`."""
    kib = n_bytes / 2**10
    for size, unit in ((2**20, "GiB"), (2**10, "MiB")):
        if kib >= size * 999.5 / 1024:  # above this, the smaller unit would need four digits
            return f"{kib / size:.3g} {unit}"
    return f"{kib:.3g} KiB"


def duration(seconds: float | None) -> str:
    """Return `2 min 16 s`, `3 h 05 min`, `41.2 s`; a dash for None."""
    if finite_number(seconds) is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def clean(text: object, longest: int | None = None) -> str:
    """Return one line of valid UTF-8, without control characters, lone surrogates and reversed writing."""
    line = str(text).encode("utf-8", errors="replace").decode("utf-8").translate(CONTROL)
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def short_name(name: object, longest: int = 40) -> str:
    """Return a name as `clean`, a long one without its middle: names of many classes begin alike."""
    line = clean(name)
    return line if len(line) <= longest else f"{line[: longest // 2]}…{line[longest // 2 + 1 - longest :]}"


def printable(text: object) -> str:
    """Return lines that are safe to print, each passed through `clean`."""
    return "\n".join(map(clean, str(text).split("\n")))


def register_argument(model: Mapping[str, object]) -> str:
    """Return ` 'register=[package.Head]'`, which a command needs if its checkpoint has parts of the user's own."""
    own = own_names(model)
    return f" {shell_quote('register=[' + ','.join(own) + ']')}" if own else ""


def own_names(model: Mapping[str, object]) -> list[str]:
    """Return the full names of the user's own network, head and backbone, each once; names in this project have no dot.

    Args:
        model: settings by their keys; those of OWN_KEYS are read.
    """
    dotted = [model[key] for key in OWN_KEYS if names_own_code(key, model.get(key))]
    return list(dict.fromkeys(name for name in dotted if all(part.isidentifier() for part in name.split("."))))


def names_own_code(key: str | None, name: object) -> bool:
    """Return whether the value of a setting names the user's own code in full, package.module.Class.

    Of the backbones, timm's names with a tag (`resnet18.a1_in1k`) have one dot and no capitals.

    Args:
        key: the setting; one that is not in OWN_KEYS names none.
    """
    is_full = key in OWN_KEYS and isinstance(name, str) and "." in name
    return is_full and not (key == BACKBONE and TIMM_TAG.fullmatch(name))


def is_own_backbone(name: object) -> bool:
    """Return whether a backbone is the user's own, as `names_own_code`."""
    return names_own_code(BACKBONE, name)


def join_words(parts: list[str], most: int = 5) -> str:
    """Return `a, b and c`, or `a, b and 7 more`."""
    if len(parts) > most:
        parts = [*parts[: most - 1], f"{len(parts) - most + 1:,} more"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "none"


def capped(lines: list[str], most: int, more: str = "and {:,} more") -> list[str]:
    """Return the first lines and a last one that counts the others, which takes the place of two or more."""
    return lines if len(lines) <= most + 1 else [*lines[:most], more.format(len(lines) - most)]


def plural(n: int, word: str) -> str:
    """Return `1 seed`, `3 seeds`."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def rounded_down(value: float, digits: int = 3) -> str:
    """Return a lower bound as text, never rounded up."""
    return f"{math.floor(value * 10**digits + 1e-9) / 10**digits:.{digits}f}"


def rounded_up(value: float, digits: int = 3) -> str:
    """Return an upper bound as text, never rounded down."""
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:.{digits}f}"


def format_interval(low: float, high: float, digits: int = 3) -> str:
    """Return `0.862 to 0.963`, rounded outward: what is printed contains the interval (docs/intervals.md)."""
    return f"{rounded_down(low, digits)} to {rounded_up(high, digits)}"


def format_confidence(confidence: float) -> str:
    """Return `0.913`, rounded up; near 1, where many networks are, with enough digits to tell it from 1: `0.99994`."""
    if confidence >= 1:
        return f"{confidence:.3f}"
    return next((text for digits in range(3, 9) if float(text := rounded_up(confidence, digits)) < 1), repr(confidence))


def digits_of_share(share: float, least: int = 2) -> int:
    """Return the number of decimals with which only a share of 0 reads as 0, and only a share of 1 as 1."""
    return next((d for d in range(least, 9) if share in (0, 1) or 0 < round(share, d) < 1), 9)


def did_you_mean(name: str, allowed: Iterable, meant: str = "") -> str:
    """Return `did you mean adam or adamw? Allowed: ...`, the closest names first; of many others only their number.

    Args:
        meant: `did you mean ...?`, if that is known better than by the closest names.
    """
    allowed = sorted(map(str, allowed))
    by_lower = {each.lower(): each for each in allowed}
    found = [] if meant else difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    close = [by_lower[each] for each in found]
    if close and len(allowed) > MOST_BESIDE_GUESS:
        return f"did you mean {' or '.join(close)}? {len(allowed) - len(close):,} others are allowed"
    meant = f"did you mean {' or '.join(close)}?" if close else meant
    more = f" and {len(allowed) - MOST_ALLOWED:,} more" if len(allowed) > MOST_ALLOWED else ""
    return f"{f'{meant} Allowed' if meant else 'allowed'}: {', '.join(allowed[:MOST_ALLOWED])}{more}"


def override_value(value) -> str:
    """Return a plain value as text that Hydra reads back with the same type; keys of a dict must be identifiers."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{override_value(each)}' for key, each in value.items())}}}"
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in HYDRA_WORDS:
        return text
    # On Windows, where the shells know double quotes only, single ones are left for Hydra
    return _in_quotes(text, "'" if sys.platform == "win32" and "'" not in text else '"')


def _in_quotes(text: str, quote: str) -> str:
    """Return a text in quotes; only backslashes before a quote, and before the closing one, are doubled."""
    return quote + re.sub(rf"(\\*)({quote}|\Z)", lambda match: 2 * match[1] + (match[2] and f"\\{quote}"), text) + quote


def quote_override(key: str, value) -> str:
    """Return `KEY=VALUE` as Hydra reads it; in a shell it needs another pair of quotes."""
    return f"{key}={override_value(value)}"


def typed_override(key: str, value) -> str:
    """Return `KEY=VALUE` to type in a shell, with the quotes that the shell and Hydra need."""
    return shell_quote(quote_override(key, value))


def shell_quote(argument: str) -> str:
    """Return an argument as it is typed in a shell; on Windows in double quotes, which both cmd and PowerShell take."""
    if sys.platform != "win32":
        return shlex.quote(argument)
    return argument if UNQUOTED.fullmatch(argument) else _in_quotes(argument, '"')


def shell_join(arguments: Iterable[str]) -> str:
    """Return a command as it is typed in a shell."""
    return " ".join(map(shell_quote, arguments))


def shell_split(command: str) -> list[str]:
    """Return the arguments of a command; on Windows, a backslash is a part of a path.

    Raises:
        ValueError: a quote is not closed.
    """
    lexer = shlex.shlex(command, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if sys.platform == "win32":
        lexer.escape = ""
    return list(lexer)
