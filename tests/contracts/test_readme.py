"""What the README and the docs tell people to type exists."""

import re
from pathlib import Path

import pytest
import typer

from underlay.cli import app
from underlay.data.curate.presets import PRESETS
from underlay.data.curate.taggers import TAGGERS, TagConfig
from underlay.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("underlay ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    root = typer.main.get_command(app)
    for line in commands(page):
        words = re.sub(r"(\"[^\"]*\"|'[^']*')", "TEXT", line).split("#")[0].split("|")[0].split()[1:]
        command = root
        while getattr(command, "commands", None) and words and not words[0].startswith("-"):
            default = getattr(command, "default", None)  # the command that a group takes other words for
            assert words[0] in command.commands or default, line
            command = command.commands[words.pop(0) if words[0] in command.commands else default]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, line


def test_the_readme_names_both_commands_and_what_it_shows() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("quickstart", "test"):
        assert f"\nmake {target}\n" in text
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (ROOT / picture).exists()
    assert len(text.splitlines()) < 70


def test_every_key_of_a_recipe_is_documented() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    definitions = Recipe.model_json_schema()["$defs"]
    keys = {(name, key) for name, model in definitions.items() for key in model.get("properties", {})}
    common = {"verb", "name", "family"}
    assert [f"{name}.{key}" for name, key in sorted(keys) if key not in common and f"| `{key}` |" not in page] == []


def test_every_attribute_and_every_rule_of_a_preset_is_documented() -> None:
    page = (ROOT / "docs" / "curation.md").read_text("utf-8")
    whole = [
        name for name in TAGGERS if name not in ("harm", "classifier", "contamination")
    ]  # those find what people give them
    fields = [f"{name}.{field}" for name in whole for field in TAGGERS[name](TagConfig()).fields]
    fields = [
        field for field in fields if not re.search(r"_\d+|oceania|terms\.[a-z_]*_[a-z]|\d+gram|asia|europe", field)
    ]
    assert [field for field in fields if f"`{field}`" not in page] == []
    rules = [(name, text) for rules in PRESETS.values() for name, text in rules.items()]
    assert [name for name, text in rules if f"`{name}` | `{text}` |" not in page] == []
