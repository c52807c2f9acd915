"""The ``trackrec`` commands: a LightningCLI; trainers belong to stages, built when a stage starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from trackrec.cli.arguments import DEFAULT_CLASSES, SHORT_NAMES, add_experiment
from trackrec.cli.errors import wrong_yaml
from trackrec.cli.front import run_cli as run_cli
from trackrec.cli.given import expand_config_files, read_as_meant, with_brackets, with_default_classes, with_short_names
from trackrec.cli.help_pages import help_page, wanted_help
from trackrec.cli.old_paths import grouped, old_table_keys, renamed, resolve_old_paths
from trackrec.cli.quiet import quiet_libraries
from trackrec.cli.short_errors import ShortErrors
from trackrec.cli.yaml_files import use_strict_yaml
from trackrec.commands.call import Call
from trackrec.commands.registry import COMMANDS
from trackrec.commands.search_space import at, changed
from trackrec.pipeline.stage import StageResult
from trackrec.recipe.build import Objects
from trackrec.runtime.errors import SettingError
from trackrec.runtime.terminal_text import printable

_SWAPPABLE = ("dataset", "sampler", "teacher", "ctr.net", "ctr.connector")


class TrackRecParser(ShortErrors, LightningArgumentParser):
    """Lightning's parser with short errors."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration; one that a stage saved may hold the arguments of `Table` as they once were."""
        return super().parse_string(grouped(content), *args, **kwargs)


class TrackRecCLI(LightningCLI):
    """Parses one experiment and runs its pipeline.

    Args:
        args: command line arguments; None takes them from ``sys.argv``.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        resolve_old_paths()
        use_strict_yaml()
        given = expand_config_files(sys.argv[1:] if args is None else args)
        if lines := wrong_yaml(given) or old_table_keys(given):
            sys.stderr.write("\n".join(lines) + "\n")
            raise SystemExit(2)
        self._given = given
        self._given_run_dir = any(arg.partition("=")[0] == "--run_dir" for arg in given)
        self._wanted = next((arg for arg in given if arg in COMMANDS), None)
        self._experiment_keys: set[str] = set()
        self._own_keys: list[str] = []
        self._help_about = wanted_help(given)
        if self._help_about is not None:  # reading the source for them takes a second
            jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=42,
            parser_class=TrackRecParser,
            parser_kwargs={"prog": "trackrec"},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what was given to the constructor, and read its lists, paths and durations as they are meant."""
        wanted = self._subcommand_parsers.get(self._wanted or "")
        if wanted is not None and self._help_about is not None:
            command = COMMANDS[str(self._wanted)]
            sys.stdout.write(help_page(wanted, command, self._help_about, self._own_keys, DEFAULT_CLASSES))
            raise SystemExit(0)
        words = self._given if wanted is None else with_brackets(wanted, self._given)
        if wanted is not None and "--teacher" in wanted._option_string_actions:
            words = with_default_classes(with_short_names(words, SHORT_NAMES), DEFAULT_CLASSES)
        self.config = parser.parse_args(words)
        if self._wanted is not None:
            config = self.config[self._wanted]
            read_as_meant(config, {key for key in vars(config) if key not in self._experiment_keys})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The names of the commands."""
        return {name: set() for name in COMMANDS}

    def _add_subcommands(self, parser: LightningArgumentParser, **_: Any) -> None:
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        commands = parser.add_subcommands()
        for name, command in COMMANDS.items():
            self._subcommand_parsers[name] = self._prepare_subcommand_parser(Trainer, name, description=command.help)
            commands.add_subcommand(name, self._subcommand_parsers[name], help=command.help)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = self.init_parser(**kwargs)
        # Arguments of a command that isn't called would only cost time.
        if subcommand == self._wanted:
            before = {action.dest for action in parser._actions}
            add_experiment(parser)
            shared = {action.dest for action in parser._actions} - before
            COMMANDS[subcommand].load().add_arguments(parser)
            self._experiment_keys = {dest.partition(".")[0] for dest in shared}
            self._own_keys = [action.dest for action in parser._actions if action.dest not in before | shared]
        return parser

    def _set_seed(self) -> None:
        """Each stage seeds what it draws from; there is no global seed to set."""

    def instantiate_classes(self) -> None:
        """Nothing yet: objects are built when the command runs, trainers and nets when their stage starts."""

    def _run_subcommand(self, subcommand: str) -> None:
        config, dump = self.config[subcommand], self._resolved(subcommand)
        if subcommand == "sweep" and self._given_run_dir:
            raise SettingError("--run_dir: a sweep writes each run under --output. Leave --run_dir out.")
        for line in swapped_classes(config, dump):
            sys.stderr.write(printable(line, keep="") + "\n")
        own = {key: config.get(key) for key in vars(config) if key not in self._experiment_keys}
        COMMANDS[subcommand].load().run(Call(self._experiment_values(dump), own, self._objects, parse_run))

    def _experiment_values(self, dump: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of the experiment, without the command's own arguments."""
        return {key: value for key, value in dump.items() if key in self._experiment_keys}

    def _resolved(self, subcommand: str) -> dict[str, Any]:
        """The configuration as plain types, every default in its place."""
        config, parser = self.config[subcommand], self._subcommand_parsers[subcommand]
        values: dict[str, Any] = renamed(yaml.safe_load(parser.dump(config, skip_unset=False, format="yaml")))
        return values

    def _objects(self, changes: Mapping[str, Any] | None = None) -> Namespace:
        """The config's objects, new ones at each call: callbacks and loggers hold the state of one training."""
        assert self.subcommand is not None
        parser, config = self._subcommand_parsers[self.subcommand], self.config[self.subcommand]
        if changes:
            config = parser.parse_object(changed(self._resolved(self.subcommand) | {"config": None}, changes))
        objects: Namespace = parser.instantiate(config)
        return objects


class _ParseOnly(TrackRecCLI):
    """Parses and builds the config's objects, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        self.objects = self._objects()
        self.values = self._experiment_values(self._resolved(subcommand))


def parse_objects(args: list[str]) -> Namespace:
    """The objects of a config without running it, for scripts and tests.

    Args:
        args: a command line, such as ``["fit", "--config", "configs/quickstart.yaml"]``.
    """
    return _ParseOnly(args).objects


def parse_values(files: Sequence[Path]) -> dict[str, Any]:
    """The whole configuration of files, the later ones over the earlier ones, as plain types; its objects can be built.

    Raises:
        SystemExit: a file is invalid; the error was already printed.
    """
    return parse_run(files)[0]


def parse_run(files: Sequence[Path]) -> tuple[dict[str, Any], Objects]:
    """The configuration of files as plain types, and what builds its objects.

    Raises:
        SystemExit: a file is invalid; the error was already printed.
    """
    sys.argv = sys.argv[:1]  # else LightningCLI wonders about two command lines
    parsed = _ParseOnly(["fit", *(word for file in files for word in ("--config", str(file)))])
    return parsed.values, parsed._objects


def run_stage_body(stage: str, work: Path, loud: bool) -> StageResult:
    """What one of several processes does for a stage; see `trackrec.cli.worker`."""
    from trackrec.commands.stage_body import run_body

    quiet_libraries()
    return run_body(*parse_run([work / "config.yaml"]), stage, work, loud)


def swapped_classes(config: Namespace, dump: dict[str, Any]) -> list[str]:
    """Lines that tell where the command line replaced a class of the config file, and which arguments it kept."""
    lines = []
    for file in config.get("config") or []:
        before = yaml.safe_load(Path(str(file)).read_text()) or {}
        for key in _SWAPPABLE:
            old, new = at(before, key), at(dump, key)
            old = {"class_path": old} if isinstance(old, str) else old
            if not isinstance(old, dict) or not isinstance(new, dict) or "class_path" not in old:
                continue
            was, now = (str(entry["class_path"]).rsplit(".", 1)[-1] for entry in (old, new))
            if was != now:
                kept = sorted(set(old.get("init_args") or {}) & set(new.get("init_args") or {}))
                lines.append(
                    f"{key}: {now} instead of the file's {was}" + (f", keeping {', '.join(kept)}" if kept else "")
                )
    return lines
