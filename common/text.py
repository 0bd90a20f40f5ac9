"""Numbers and hostile text as a reader sees them."""

import difflib
import math
import re

SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
CONTROL = dict.fromkeys((*range(32), 127, *range(128, 160), 8232, 8233), " ")
CONTROL |= dict.fromkeys((*range(8234, 8239), *range(8294, 8298)), "")  # they turn the order of letters round


def finite_number(value) -> float | int | None:
    """The value where it is a finite number, else None: records hold null for NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def numeral(text: str) -> float | None:
    """The number that a setting's text writes, `1e-05`, else None."""
    return float(text) if NUMERAL.fullmatch(text) else None


def compact_count(value: float | None) -> str:
    """Three digits and a suffix, `38.9M`; a dash where there is none."""
    if value is None:
        return "-"
    for size, suffix in SUFFIXES:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """`12.2 ms`."""
    return "-" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def duration(seconds: float | None) -> str:
    """`2 min 16 s`, `3 h 05 min`, `41.2 s`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def clean(text: object, longest: int | None = None) -> str:
    """One line that can be written as UTF-8: without control characters, half letters and turned writing."""
    line = str(text).encode("utf-8", errors="replace").decode("utf-8").translate(CONTROL)
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def printable(text: object) -> str:
    """Lines that a screen can show: without what would steer it, half letters and turned writing."""
    return "\n".join(map(clean, str(text).split("\n")))


def join_words(parts: list[str], most: int = 5) -> str:
    """`a, b and c`, or `a, b and 7 more`."""
    if len(parts) > most:
        parts = [*parts[: most - 1], f"{len(parts) - most + 1:,} more"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "none"


def plural(n: int, word: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def did_you_mean(name: str, allowed) -> str:
    """`did you mean adam or adamw? Allowed: ...`; the closest names first."""
    allowed = sorted(map(str, allowed))
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}Allowed: {', '.join(allowed)}"


def quote_override(key: str, value: object) -> str:
    """KEY=VALUE as Hydra reads it, whatever the value is."""
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9._/-]+", text):
        return f"{key}={text}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'
