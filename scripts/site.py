"""Pages that the site adds to docs/: one for each command and each rule, the README, and the files that pages link to.

A hook of mkdocs (``mkdocs.yml``). What is in the repository once is shown once: nothing is copied into docs/.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import click
from mkdocs.structure.files import File, Files

import docs as reference
from normfold.cli.application import VERBS, cli
from normfold.core.rules import RULES

ROOT: Final = Path(__file__).resolve().parents[1]
LINK: Final = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
LEXERS: Final = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "bash"}


def on_config(config: Any) -> Any:
    """Fill the parts of the navigation that list the commands and the rules."""
    made = {"Commands": [f"commands/{verb}.md" for verb in VERBS], "Rules": [f"rules/{rule.name}.md" for rule in RULES]}
    config.nav = [{name: made.get(name, pages)} for part in config.nav for name, pages in part.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    made = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    made |= {f"commands/{verb}.md": command_page(verb) for verb in VERBS}
    made |= {f"rules/{rule.name}.md": rule_page(rule) for rule in RULES}
    pending = [*made.items(), *((file.src_uri, file.content_string) for file in files.documentation_pages())]
    while pending:
        uri, text = pending.pop()
        for path in linked(uri, text):
            if (page := shown(path)) not in made and not path.is_relative_to(ROOT / "docs"):
                made[page] = file_page(path)
                pending.append((page, made[page]))
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Point links that lead out of docs/ to the pages that show those files."""
    uri = page.file.src_uri

    def pointed(found: re.Match[str]) -> str:
        path = resolved(uri, found["target"])
        if path is None:
            return found[0]
        return f"{found['text']}({posixpath.relpath(shown(path), posixpath.dirname(uri))}{found['anchor'] or ''})"

    return LINK.sub(pointed, markdown)


def origin(uri: str) -> Path:
    """The file in the repository that a page shows."""
    if uri == "index.md":
        return ROOT / "README.md"
    if uri.startswith("repository/"):
        path = ROOT / uri.removeprefix("repository/")
        return path if path.exists() else path.with_suffix("")
    return ROOT / "docs" / uri


def resolved(uri: str, target: str) -> Path | None:
    """The file or folder of the repository that a link of the page ``uri`` names; None for anything else."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = Path(os.path.normpath(origin(uri).parent / target))
    return path if path.exists() and path.is_relative_to(ROOT) else None


def linked(uri: str, text: str) -> Iterator[Path]:
    """The files of the repository that the page ``uri`` links to."""
    for found in LINK.finditer(text):
        path = resolved(uri, found["target"])
        if path is not None:
            yield path


def shown(path: Path) -> str:
    """The page that shows a file or folder of the repository."""
    docs, name = ROOT / "docs", path.relative_to(ROOT).as_posix()
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    return f"repository/{name}" if path.suffix == ".md" else f"repository/{name}.md"


def file_page(path: Path) -> str:
    """A page of what ``path`` holds."""
    if path.is_dir():
        listed = "\n".join(f"* [{one.name}]({one.name})" for one in sorted(path.iterdir()) if one.is_file())
        # Links are read from the folder's own place.
        return f"# {path.name}\n\n" + listed.replace("](", f"]({path.name}/")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.name}\n\n```{LEXERS.get(path.suffix, 'text')}\n{text}```\n"


def command_page(verb: str) -> str:
    """What the command line's page says of a verb, and the verb's own help."""
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    said = next((part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if names(part, verb)), "")
    body = re.sub(r"\]\((?=[a-z-]+\.md)", "](../reference/", said.partition("\n")[2]).replace(
        "](#", "](../reference/cli.md#"
    )
    context = click.Context(cli, info_name="normfold")
    command = cli.get_command(context, verb)
    if command is None:
        raise ValueError(f"no command {verb}")
    told = command.get_help(click.Context(command, info_name=verb, parent=context, terminal_width=100))
    return f"# normfold {verb}\n\n{body.strip()}\n\n```text\n$ normfold {verb} --help\n{told}\n```\n"


def names(part: str, verb: str) -> bool:
    """Whether a section of the command line's page is about a verb."""
    return re.match(rf"## `normfold {verb}\b", part) is not None


def rule_page(rule: Any) -> str:
    """A rule on a page of its own."""
    text = reference.rule_part(rule).replace("](laws.md", "](../reference/laws.md")
    return re.sub(r"^(#+)#", r"\1", text, flags=re.MULTILINE)
