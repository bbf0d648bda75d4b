"""What every front door needs: running a command, shared options, the wording of errors, tables.

`ctray`, `python -m tuning.search` and `python -m serve` stand on it.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer
import typer.completion
import typer.core

from ctray.config import Recipe
from ctray.errors import ClusterDiedError, UserError
from ctray.words import counted, printable

if TYPE_CHECKING:
    from rich.console import Console

    from ctray.data.store import Store

VERBOSE = typer.Option("--verbose", "-v", help="Show Ray's own messages and the workers' output.")
DATA_HELP = "Store, or folder with one sub-folder a class."
BUNDLE_HELP = "Folder or URI of a bundle."
REGISTRY_HELP = "Path or filesystem URI; default: $CTRAY_REGISTRY or ~/.ctray/registry."

# Of each kind of fault so many files are printed; the report has them all.
LINES_A_FAULT = 5
# From so many records on, one group with a fifth of them is odd.
FEWEST_TO_WONDER = 50
# What a shell sets when it asks for completions: that it asks, and the line as far as it is typed
# (bash, and the others).
_COMPLETE = "_CTRAY_COMPLETE"
_TYPED = {"COMP_WORDS", "_TYPER_COMPLETE_ARGS"}


class Command(typer.core.TyperCommand):
    """A verb whose errors name its own options beside what the library says is wrong."""

    # Options for what the library calls otherwise, such as `workers` to `workers_per_trial`.
    other_names: Mapping[str, Sequence[str]] = {}

    def invoke(self, ctx: Any) -> Any:
        """Run it; a UserError leaves it with the options that its arguments are here."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            error.options = self._options(error.arguments)
            raise

    def _options(self, arguments: Iterable[str]) -> tuple[str, ...]:
        # Parameters that would hide a word of Python end in an underscore.
        mine = {
            (one.name or "").rstrip("_"): one.opts[-1]
            for one in self.params
            if one.opts[-1].startswith("--")
        }
        names = [name for one in arguments for name in self.other_names.get(one, (one,))]
        if "set" in mine:
            # Settings of the recipe that have no option of their own. A mistake in a group of them
            # names the one it is in.
            settings = Recipe.model_fields.keys() - mine.keys() - {"augment"}
            mine |= {name: f"{mine['set']} {name}=…" for name in settings}
        return tuple(mine[name] for name in names if name in mine)


class OtherProgram(Command):
    """A verb that is another program: all that follows it, `--help` too, is that program's.

    It stands on ctray, and is not imported by it.
    """

    module = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take everything as it was typed."""
        super().parse_args(ctx, [])
        ctx.args = args
        return args

    def invoke(self, ctx: Any) -> NoReturn:
        """Become that program."""
        os.execv(sys.executable, [sys.executable, "-m", self.module, *ctx.args])

    def shell_complete(self, ctx: Any, incomplete: str) -> NoReturn:
        """Let that program complete: the shell's question, with the verb as the command's name."""
        for name in _TYPED & os.environ.keys():
            os.environ[name] = os.environ[name].lstrip().partition(" ")[2].lstrip()
        if "COMP_CWORD" in os.environ:
            os.environ["COMP_CWORD"] = str(int(os.environ["COMP_CWORD"]) - 1)
        os.execv(sys.executable, [sys.executable, "-m", self.module])


def other_program(module: str) -> type[OtherProgram]:
    """The verb that is `python -m module`."""
    return type("OtherProgram", (OtherProgram,), {"module": module})


def run_cli(
    command: Callable[..., Any], other_names: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Run a single function as a command line with ctray's manners; it exits the process.

    Args:
        command: typed as typer wants it.
        other_names: its parameters for what the library calls otherwise.
    """
    single = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    if _COMPLETE in os.environ:
        # Asked by `OtherProgram`: typer knows the shells only where it offers --install-completion.
        typer.completion.get_completion_inspect_parameters()
    kind = type("Single", (Command,), {"other_names": other_names or {}})
    single.command(cls=kind)(command)
    run_app(single)


def run_app(program: typer.Typer) -> None:
    """Run a command line, and exit.

    0 is success, 2 a user's mistake (one sentence on stderr), 130 Ctrl-C; of a step of the demo
    that failed it is that step's. Anything else is a traceback, and 1.
    """
    # A file name may have bytes that are not UTF-8: to print it must not end the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    leave: Callable[[int], NoReturn] = sys.exit
    sentence = None
    try:
        # It exits by itself when all goes well, and with 2 at a mistake that typer finds.
        program(complete_var=_COMPLETE)
        code = 0
    except UserError as error:
        code, sentence = 2, _sentence(error)
        if isinstance(error, ClusterDiedError):
            leave = _end_at_once
    except OSError as error:
        # A full disk, a folder one may not write, a file where a folder should be.
        if error.strerror is None or error.filename is None:
            raise
        code, sentence = 2, f"error: {error.filename}: {error.strerror}"
    except subprocess.CalledProcessError as error:
        # It has said itself what was wrong.
        code = error.returncode
    except KeyboardInterrupt:
        code = 130
    if sentence is not None:
        print(sentence, file=sys.stderr, flush=True)
    leave(code)


def _end_at_once(code: int) -> NoReturn:
    """End without the end of Python, at which Ray would make 1 of the code."""
    sys.stdout.flush()
    os._exit(code)


def _sentence(error: UserError) -> str:
    """What a command line prints of a mistake: the library's words, and the options to change."""
    return f"error: {printable(str(error))}" + (
        f" ({', '.join(error.options)})" if error.options else ""
    )


def parse_pairs(option: str, pairs: list[str]) -> dict[str, str]:
    """Turn `["old=new"]` of an option into a mapping.

    Raises:
        UserError: a pair without `=`, or with nothing on one side.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new):
            raise UserError(f"{option} {pair!r} is not of the form A=B")
        values[old] = new
    return values


def print_store(store: "Store") -> None:
    """Print the counts per class and split, what ties records together and what was left out."""
    from ctray.data.store import counts

    usable = store.records("all")
    print(counts(store).to_string(index_names=False))
    lost = store.manifest[store.manifest["status"] != "ok"]
    print(
        f"{len(usable)} records in {usable['group'].nunique()} groups, no group in two splits; "
        f"{len(lost)} quarantined"
    )
    for status, rows in lost.groupby("status"):
        for _, row in rows.head(LINES_A_FAULT).iterrows():
            print(f"  {row['path']}: {row['reason']}")
        if len(rows) > LINES_A_FAULT:
            print(f"  and {len(rows) - LINES_A_FAULT} more: {status}")
    near = store.duplicates[store.duplicates["kind"] == "near"]
    if len(near):
        first = near.iloc[0]
        print(f"{len(near)} near-duplicate pairs, such as {first['first']} and {first['second']}")
    warned = store.manifest[store.manifest["warning"] != ""]
    if len(warned):
        first = warned.iloc[0]
        print(f"{len(warned)} warnings, the first: {first['path']}: {first['warning']}")
    groups = usable["group"].value_counts()
    if len(usable) >= FEWEST_TO_WONDER and groups.iloc[0] > len(usable) / 5:
        print(
            f"group {groups.index[0]!r} holds {groups.iloc[0]} of {len(usable)} records: "
            "is that one patient, or a placeholder?"
        )
    if store.confounds:
        print(f"confounded: {store.confounds[0]}")
    for notice in store.notices:
        print(notice)
    if store.ignored:
        number = counted(len(store.ignored), "other file")
        print(f"{number} not read, the first: {store.ignored[0]}")


def promote_and_print(bundle: str, registry: str | None, name: str) -> None:
    """Put a bundle into the registry as the production one, and say so, with its caveats."""
    from ctray.artefact.bundle import read_info
    from ctray.artefact.caveats import caveats
    from ctray.artefact.registry import default_registry, promote

    done = promote(bundle, registry or default_registry(), name)
    print(f"{done.name} version {done.version} is in production: {done.uri}")
    for caveat in caveats(read_info(done.uri)):
        print(f"note: {caveat}")


def error_console() -> "Console":
    """A rich console on stderr: progress shows on a terminal and stays out of a pipe."""
    from rich.console import Console

    return Console(stderr=True)
