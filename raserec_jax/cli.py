"""What the scripts in launch/ share: flags, configurations, errors in one line, exit codes.

A script defines its flags, asks for the shared ones, and hands its `main(argv)` to `run`:

    _WORKDIR = cli.workdir_flag()
    _CONFIG = cli.config_flag()

    def main(argv):
        train(cli.load_config(), ..., workdir=_WORKDIR.value)

    if __name__ == "__main__":
        cli.run(main)

Exit codes: 0 done; 1 a bug, with its traceback; 2 the user's input, flag or configuration; 3 a loss
that is not finite; 4 interrupted, run again to go on. XLA's flags need no care here: importing
raserec_jax settles them.
"""

import contextlib
import difflib
import errno
import importlib
import logging as std_logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from raserec_jax import config_files
from raserec_jax.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NON_FINITE,
    EXIT_USER,
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    LostProcessError,
    NonFiniteLossError,
)

FLAGS = flags.FLAGS

# The documented --config.data.items; a ConfigDict has a method of that name, so the value is called item_text.
_ITEMS_FLAG = re.compile(r"^(--?config\.data\.)items(?==|$)")

# What the machine, not the program, has to be cured of.
_DISK_ERRORS = tuple(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO")
    if hasattr(errno, name)
)

# Flag -> how to give it; flags that a script cannot do without.
_required: dict[str, str] = {}


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, calls `main(argv)`, and exits with the code of what happened."""
    # In sys.argv, since config_flags looks for its overrides there.
    sys.argv[1:] = [_ITEMS_FLAG.sub(r"\1item_text", argument) for argument in sys.argv[1:]]
    app.run(lambda argv: _leave(_call(main, argv)), flags_parser=_parse_flags)


def config_flag() -> flags.FlagHolder:
    """Defines --config, required, with its dotted overrides; its value is a locked ConfigDict. Also defines
    --compilation_cache, as whoever takes a configuration compiles."""
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "folder that keeps compiled programs for later runs; what lies there is run, so only you may write to it",
    )
    require("config", "--config=configs/raserec.py:movielens_100k")
    words = "configuration: METHOD.py[:DATASET]; then --config.GROUP.NAME=VALUE changes one value"
    try:
        return config_flags.DEFINE_config_file("config", lock_config=True, help_string=words)
    except flags.Error as error:  # it looks into a --flagfile already here
        sys.exit(_complain(error, EXIT_USER))


def workdir_flag() -> flags.FlagHolder[str]:
    """Defines --workdir, required."""
    require("workdir", "--workdir=runs/movielens_100k")
    return flags.DEFINE_string("workdir", None, "folder that holds everything a run makes")


def mesh_flag(words: str = "the same as --config.mesh.data and --config.mesh.model") -> None:
    """Defines --mesh, which `load_config` puts into the configuration; `words`: what else is to be said of it."""
    flags.DEFINE_string(
        "mesh",
        None,
        "devices along each axis, as data:-1,model:1: rows of batches lie over data, rows of the item table over "
        f"model; -1 = what the other leaves; {words}",
    )


def mesh_over_devices():
    """The mesh that --mesh describes, over all devices of all processes; None if that is one device.

    Raises:
      ConfigError: it fits no mesh of these devices.
    """
    module = importlib.import_module("raserec_jax.mesh")
    return module.mesh_over(module.parse_mesh(FLAGS.mesh or ""))


def process_flags() -> None:
    """Defines the flags of a job of several processes, which `run` starts before it calls `main`."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, the same for all processes of a job; auto: what the scheduler says (Cloud TPU, SLURM, "
        "Open MPI); default: this process is by itself",
    )
    flags.DEFINE_integer(
        "num_processes", None, "processes of the job; default: as the scheduler says"
    )
    flags.DEFINE_integer(
        "process_id", None, "which of them this is, 0 to N-1; default: as the scheduler says"
    )
    flags.DEFINE_integer(
        "heartbeat_s", 10, "a process that is silent for so many seconds is lost, and ends the job"
    )
    flags.DEFINE_integer("start_s", 300, "how many seconds the other processes are waited for")


def integers(flag: str, values: list[str]) -> list[int]:
    """The values of a list flag as integers.

    Raises:
      ConfigError: one is none.
    """
    try:
        return [int(value) for value in values]
    except ValueError:
        raise ConfigError(
            f"--{flag}={','.join(values)} should be integers separated by commas, as in --{flag}=0,1,2"
        ) from None


def step_range(flag: str, value: str | None) -> tuple[int, int] | None:
    """FIRST:LAST of a flag as two numbers; None if it is not given.

    Raises:
      ConfigError: anything else, or nothing between them.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", value)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(
            f"--{flag}={value} should be FIRST:LAST with FIRST below LAST, as in --{flag}=10:20"
        )
    return int(match[1]), int(match[2])


def require(name: str, example: str) -> None:
    """Makes a flag required; `example` is what the error about its absence shows."""
    _required[name] = example


def load_config() -> ConfigDict:
    """The value of --config with that of --mesh, locked, after the rules across its fields were checked.

    Raises:
      ConfigError: a rule is broken.
    """
    config = FLAGS.config
    if "mesh" in FLAGS and FLAGS.mesh is not None:
        parse_mesh = importlib.import_module("raserec_jax.mesh").parse_mesh
        config.mesh.update(parse_mesh(FLAGS.mesh)._asdict())
    validate_config(config)
    return config


def validate_config(config: ConfigDict) -> None:
    """Checks the rules across fields that types cannot express (`presets.check_config`).

    Raises:
      ConfigError: a rule is broken.
    """
    importlib.import_module("raserec_jax.presets").check_config(config)


def _keep_compiled() -> None:
    """Hands --compilation_cache to JAX, which reads these variables when it is first imported.

    Raises:
      ConfigError: the folder is not there and cannot be made, or others can write into it.
    """
    folder = FLAGS["compilation_cache"].value if "compilation_cache" in FLAGS else None
    if folder is None:
        return
    path = os.path.abspath(folder)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        open_to_others = os.stat(path).st_mode & 0o022
    except OSError as error:
        raise ConfigError(
            f"--compilation_cache={folder}: {error.strerror}; give a folder that can be written"
        ) from None
    if open_to_others:
        raise ConfigError(
            f"--compilation_cache={folder} can be written by others, and what is in it is run; chmod 700 it, or give "
            "another folder"
        )
    os.environ["JAX_COMPILATION_CACHE_DIR"] = path
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _join_job() -> None:
    """Starts what the flags of `process_flags` describe; nothing where there are none, or they are not given."""
    if "coordinator" not in FLAGS:
        return
    given = [FLAGS[name].value for name in ("coordinator", "num_processes", "process_id")]
    if given == [None, None, None]:
        return
    distributed = importlib.import_module("raserec_jax.distributed")
    job = distributed.read_job(*given)
    distributed.start(job, heartbeat_s=FLAGS["heartbeat_s"].value, start_s=FLAGS["start_s"].value)
    if not distributed.is_writer():
        sys.stdout = open(os.devnull, "w")  # for as long as the process lasts


def _in_job():
    """The module of the processes of a job, if this is one of several; else None."""
    distributed = sys.modules.get("raserec_jax.distributed")
    return distributed if distributed and distributed.process_count() > 1 else None


def _call(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    try:
        _keep_compiled()
        _join_job()
        return main(argv) or EXIT_DONE
    except (app.UsageError, DataError, ConfigError, CheckpointError) as error:
        return _complain(error, EXIT_USER)
    except NonFiniteLossError as error:
        return _complain(error, EXIT_NON_FINITE)
    except (Interrupted, LostProcessError) as stop:
        return _complain(stop, EXIT_INTERRUPTED, label="interrupted")
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = (
            f"{error.filename}: "
            if error.filename
            else "a file, or the output, cannot be written: "
        )
        reason = f"{where}{error.strerror}; free space, or make the folder writable, and run again"
        return _complain(reason, EXIT_USER)
    except KeyboardInterrupt:
        message = "run the same command again to go on from what was saved"
        return _complain(message, EXIT_INTERRUPTED, label="interrupted")
    except Exception as error:
        if (distributed := _in_job()) is None:
            raise
        distributed.wait_for_verdict(error)
        traceback.print_exc()
        return EXIT_BUG


def _complain(message: object, exit_code: int, label: str = "error") -> int:
    """Prints one line to stderr; returns the exit code. Output on a full disk is no reason for another one."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(f"{label}: {' '.join(str(message).splitlines())}", file=sys.stderr, flush=True)
    return exit_code


def _leave(exit_code: int) -> int:
    """Hands over the output; returns the exit code, 2 in place of 0 if output was lost.

    After an error or a stop the process ends here: a computation that nobody waits for any more may still run, and
    XLA crashes (SIGSEGV in place of the exit code) if the interpreter is taken down under it. Nor can Python then put
    a code of its own in place, for output that it cannot write.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            exit_code = exit_code or _complain(f"output is lost ({error.strerror})", EXIT_USER)
    if (distributed := _in_job()) is not None:
        distributed.leave(exit_code)
    if exit_code == EXIT_DONE:
        return exit_code
    logging.flush()
    os._exit(exit_code)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses all flags, or ends the program with one sentence; nothing may be left over."""
    try:
        argv = FLAGS.read_flags_from_files(argv, force_gnu=False)
        if {"--help", "-help", "-h", "-?", "--helpshort"} & set(argv[1:]):
            print(help_text(argv))
            sys.exit(EXIT_DONE)
        if "config" in FLAGS:
            _check_config(argv)
        rest = FLAGS(argv)
        _check_complete(rest)
    except (flags.Error, ConfigError, DataError) as error:
        sys.exit(_complain(_in_words(error), EXIT_USER))
    if FLAGS["verbosity"].using_default_value:
        FLAGS.verbosity = logging.WARNING  # at absl's own default Orbax fills the terminal
    _say_warnings_plainly()
    return rest


def _say_warnings_plainly() -> None:
    """Our own warnings are for the user: one line each, as errors are, without absl's time and place."""
    handler, logger = std_logging.StreamHandler(), std_logging.getLogger("raserec_jax")
    handler.setFormatter(std_logging.Formatter("warning: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def _check_config(argv: list[str]) -> None:
    """Refuses what config_flags would answer with a traceback."""
    locations = _config_locations(argv)
    if not locations:
        raise ConfigError(_missing("config"))
    if len(locations) > 1:
        raise ConfigError(
            f"--config is given {len(locations)} times; give one of {', '.join(locations)}"
        )
    config = config_files.read_config(locations[0])
    for argument in argv[1:]:
        if override := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            config_files.check_override(config, override.group(1))


def _config_locations(argv: list[str]) -> list[str]:
    """FILE[:DATASET] of each `--config=FILE` or `--config FILE`."""
    return [
        argument.partition("=")[2] or following
        for argument, following in zip(argv, [*argv[1:], ""], strict=True)
        if re.match(r"--?config(=|$)", argument)
    ]


def _check_complete(rest: list[str]) -> None:
    if rest[1:]:
        raise ConfigError(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    for name in _required:
        if FLAGS[name].value is None:
            raise ConfigError(_missing(name))


def _missing(name: str) -> str:
    return f"--{name} is missing; give it, for example {_required[name]}"


def _in_words(error: Exception) -> str:
    """A flag error as what was given, what is expected and the way out; others as they are."""
    if isinstance(error, flags.UnrecognizedFlagError):
        near = difflib.get_close_matches(error.flagname, [f.name for f in _own_flags()], n=1)
        way_out = f"did you mean --{near[0]}?" if near else "--help lists the flags"
        return f"--{error.flagname}: there is no such flag; {way_out}"
    refused = re.match(r"flag --([^=]+)=(.*?): (.*)", str(error), re.DOTALL)
    if isinstance(error, flags.IllegalFlagValueError) and refused:
        name, given, reason = refused.groups()
        flag = FLAGS[name] if name in FLAGS else None
        if flag is not None and flag.parser.syntactic_help:
            reason = f"expected {flag.parser.syntactic_help} (the default is {flag.default!r})"
        elif flag is not None and flag.parser.flag_type() == "bool":
            reason = f"expected true or false (the default is {flag.default!r})"
        return f"--{name}={given}: {reason}"
    return str(error)


def _own_flags() -> list[flags.Flag]:
    """Flags of the script, then the shared ones; not those that absl brings along."""
    by_module = FLAGS.flags_by_module_dict()
    return [*by_module.get(sys.argv[0], ()), *by_module.get(__name__, ())]


def help_text(argv: list[str]) -> str:
    """What --help prints: the script's docstring, the flags, the values of --config's file."""
    lines = [(sys.modules["__main__"].__doc__ or argv[0]).strip(), "", "Flags:"]
    for flag in _own_flags():
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        default = "required" if flag.name in _required else f"default: {flag.default!r}"
        lines += [f"  {name}", *_wrapped(f"{flag.help} ({default})", indent=6)]
    if "config" in FLAGS:
        lines.append("")
        for location in _config_locations(argv):
            lines += _config_help(location)
        if not _config_locations(argv):
            lines.append("With --config=FILE[:DATASET], --help also lists the values that it sets.")
    return "\n".join(lines)


def _config_help(location: str) -> list[str]:
    """Every value with its default, by group, and the words of `presets.FIELD_HELP` for it."""
    words = getattr(importlib.import_module("raserec_jax.presets"), "FIELD_HELP", {})
    whole = "the whole run"
    groups: dict[str, list[str]] = {whole: []}
    for name, value in config_files.leaves(config_files.read_config(location)):
        group = name.split(".")[0] if "." in name else whole
        lines = [f"    --config.{name}={value!r}", *_wrapped(words.get(name, ""), indent=8)]
        groups.setdefault(group, []).extend(lines)
    heading = f"Values of {location}; change one with --config.GROUP.NAME=VALUE:"
    blocks = ([f"  {group}", *lines] for group, lines in groups.items() if lines)
    return [heading, *(line for block in blocks for line in block)]


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, 88, initial_indent=" " * indent, subsequent_indent=" " * indent)
