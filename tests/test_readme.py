"""The README's plug-in is code that works."""

import re
import tomllib
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def test_the_plug_in_keeps_the_laws_of_its_interface() -> None:
    from wmplatform.contracts.encoder import check_encoder
    from wmplatform.types import ArraySpec

    module = ModuleType("my_plugin.encoders")
    exec(compile(blocks("python")[0], "README.md", "exec"), module.__dict__)
    frames = {"pixels": ArraySpec((3, 32, 32), "uint8")}
    check_encoder(lambda observations: module.Patches(observations, width=4), frames)


def test_the_entry_point_names_the_plug_in() -> None:
    entries = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    assert entries == {"wmplatform.encoders": {"patches": "my_plugin.encoders:Patches"}}
    assert "class Patches(Encoder)" in blocks("python")[0]


def test_the_commands_of_the_quickstart_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\nquickstart:")[2].partition("\n\n")[0]
    lines = re.findall(r"\$\(PY\) (-m platform\.run .*?);? *\\?$", recipe, flags=re.MULTILINE)
    commands = [line.replace("$(QUICKSTART)", "runs/quickstart") for line in lines]
    assert blocks("sh")[0].splitlines() == [f"python {command}" for command in commands]
    files = re.findall(r"experiments/\S+\.gin", " ".join(commands))
    assert len(files) == 3
    assert all((ROOT / file).is_file() for file in files)


def test_the_two_commands_come_first() -> None:
    assert [block.strip() for block in blocks("")[:2]] == ["make quickstart", "make test"]
