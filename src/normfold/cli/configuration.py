"""Options from a file: ``[tool.normfold]`` of a pyproject.toml, or a TOML or YAML file that ``--config`` names.

What is given on the command line comes first. Keys are the long names of options without their dashes in front; those
at the top hold for every command that has such an option, those in a command's table for that one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from normfold.cli.param_types import file_name
from normfold.errors import EnvironmentUnavailableError, UsageError, suggestion

PROJECT: Final = "pyproject.toml"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Settings = dict[str, Any]


def _apply(context: click.Context, _option: click.Parameter, given: str | None) -> None:
    """Take the defaults of the command's options from the file."""
    if context.resilient_parsing:
        return
    file = Path(given) if given is not None else _project()
    if file is None:
        return
    settings = read(file)
    options = option_names(context.command)
    verb = str(context.command.name)
    chosen = settings.pop(verb, {})
    if not isinstance(chosen, dict):
        raise UsageError("usage", f"{verb} in {file} is not a table of options.")
    for key in [*settings, *chosen]:
        _check(context, file, key, in_table=key in chosen)
    merged = {key: value for key, value in settings.items() if key in options} | chosen
    context.default_map = {str(options[key].name): _value(file, options[key], one) for key, one in merged.items()}


CONFIG: Final = click.option(
    "--config",
    type=file_name,
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_apply,
    help="Take options from a TOML or YAML file; by default [tool.normfold] of the nearest pyproject.toml.",
)


def read(file: Path) -> Settings:
    """The settings that ``file`` holds; of a pyproject.toml, those of its table, if it has one.

    Raises:
        UsageError: ``usage``: it cannot be read, or holds no settings.
        EnvironmentUnavailableError: ``missing-package``: YAML needs PyYAML.
    """
    try:
        text = file.read_text(encoding="utf-8")
        whole = _yaml(text) if file.suffix in (".yaml", ".yml") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError("usage", f"The configuration {file} cannot be read: {reason}.") from error
    found = whole.get("tool", {}).get("normfold", {}) if isinstance(whole, dict) and "tool" in whole else whole
    if file.name == PROJECT and (not isinstance(whole, dict) or "tool" not in whole):
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError("usage", f"The configuration {file} is not a table of options.")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        hint = "pip install 'normfold[yaml]', or write the configuration as TOML."
        raise EnvironmentUnavailableError("missing-package", "YAML needs the package pyyaml.", hint) from error
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _project() -> Path | None:
    """The pyproject.toml of this folder, or of the nearest one above."""
    here = Path.cwd()
    return next((one / PROJECT for one in (here, *here.parents) if (one / PROJECT).is_file()), None)


def _check(context: click.Context, file: Path, key: str, *, in_table: bool) -> None:
    """Raise `UsageError` where no command has the option ``key``, or that of the context has not."""
    tables = [] if in_table else _commands(context.find_root().command)
    if any(key == one.name for one in tables):
        return
    known = {name for one in tables or [context.command] for name in option_names(one)}
    if key not in known:
        where = f"[{context.command.name}] of {file}" if in_table else str(file)
        hint = suggestion(key, [*known, *(str(one.name) for one in tables)])
        raise UsageError("usage", f"{where}: there is no option {key!r}.", hint)


def _commands(group: click.Command) -> list[click.Command]:
    """The commands of the application."""
    assert isinstance(group, click.Group)  # noqa: S101 - for the type checker
    context = click.Context(group)
    found = (group.get_command(context, name) for name in group.list_commands(context))
    return [one for one in found if one is not None]


def _value(file: Path, option: click.Option, value: object) -> object:
    """A value as the command line would give it: click reads it from there."""
    if option.is_flag:
        fits = isinstance(value, bool)
    elif option.multiple and isinstance(value, list):
        return [_value(file, click.Option([f"--{_key(option)}"]), one) for one in value]
    else:
        fits = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not fits:
        wanted = "true or false" if option.is_flag else "a text or a number"
        raise UsageError("usage", f"{_key(option)} in {file} is {value!r}; it has to be {wanted}.")
    scalar = value if option.is_flag else str(value)
    return [scalar] if option.multiple else scalar


def option_names(command: click.Command) -> dict[str, click.Option]:
    """The options of ``command`` by the names that a file gives them."""
    options = (one for one in command.params if isinstance(one, click.Option) and one.expose_value)
    return {_key(one): one for one in options}


def _key(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--")).removeprefix("--")


def schema(group: click.Group) -> Mapping[str, Any]:
    """The JSON Schema of a configuration of the application ``group``."""
    tables = {str(one.name): dict(_properties(one)) for one in _commands(group)}
    shared: dict[str, Any] = {}
    for properties in tables.values():
        for key, told in properties.items():
            shared.setdefault(key, []).append(told)
    return {
        "$schema": DIALECT,
        "$id": "urn:normfold:schema:config:1",
        "title": "normfold's configuration",
        "description": "Options by their long names: at the top for every command that has them, in a table for one.",
        "type": "object",
        "properties": {
            **{
                verb: {"type": "object", "properties": told, "additionalProperties": False}
                for verb, told in tables.items()
            },
            **{key: _either(told) for key, told in sorted(shared.items()) if key not in tables},
        },
        "additionalProperties": False,
    }


def _either(told: list[dict[str, Any]]) -> dict[str, Any]:
    """What an option may be where it is one of several commands."""
    kinds = [{name: one[name] for name in one if name != "description"} for one in told]
    distinct = [one for index, one in enumerate(kinds) if one not in kinds[:index]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def _properties(command: click.Command) -> Iterator[tuple[str, dict[str, Any]]]:
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value:
            yield _key(option), {"description": option.help or "", **_kind(option)}


def _kind(option: click.Option) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string"}
    if option.is_flag:
        one = {"type": "boolean"}
    elif isinstance(option.type, click.Choice):
        one = {"enum": list(option.type.choices)}
    elif isinstance(option.type, click.IntRange):
        bounds = {"minimum": option.type.min, "maximum": option.type.max}
        one = {"type": "integer"} | {name: bound for name, bound in bounds.items() if bound is not None}
    elif isinstance(option.type, click.types.FloatParamType):
        one = {"type": "number"}
    return {"type": "array", "items": one} if option.multiple else one
