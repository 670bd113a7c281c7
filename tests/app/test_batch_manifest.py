"""The manifests of ``seqtex batch``: what they say, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from batch_runs import requests, write

from seqtex.cli.batch_manifest import read_manifest_items
from seqtex.cli.texture_run import run_sizes
from seqtex_core.errors import InputError, SeqTexError, UsageError


def test_json_lines_and_csv_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.cli.text_options.TextRequest.check", lambda self: None)
    lines = write(
        tmp_path / "jobs.jsonl",
        {"mesh": "a/chair.glb", "image": "chair.png", "seed": 3, "foreground": False},
        {"mesh": "b/chair.obj", "name": "other", "refs": {"front": "f.png", "back": "b.png"}},
        {
            "mesh": "lamp.glb",
            "text": "a lamp",
            "image_model": "black-forest-labs/FLUX.1-Depth-dev",
            "out": "lamps/1.glb",
            "unwrap": True,
        },
    )
    table = tmp_path / "jobs.csv"
    table.write_text(
        "mesh,name,image,seed,foreground,ref.front,ref.back,text,image_model,out,unwrap\n"
        "a/chair.glb,,chair.png,3,false,,,,,,\n"
        "b/chair.obj,other,,,,f.png,b.png,,,,\n"
        "lamp.glb,,,,,,,a lamp,black-forest-labs/FLUX.1-Depth-dev,lamps/1.glb,true\n"
    )
    shared = ("--model", "seqtex-tiny", "--steps", "2", "--seed", "9")
    first, second, third = requests(lines, *shared)
    assert requests(table, *shared) == [first, second, third]
    assert [r.run.steps for r in (first, second, third)] == [2, 2, 2]
    assert (first.mesh, first.image) == (tmp_path / "a" / "chair.glb", tmp_path / "chair.png")
    assert (first.seed, second.seed) == (3, 9), "an item's own options come last"
    assert (first.run.foreground, second.run.foreground) == (False, None)
    assert first.out == tmp_path / "out" / "chair_textured.glb"
    assert second.out == tmp_path / "out" / "other" / "other_textured.obj"
    assert second.refs == (f"front={tmp_path}/f.png", f"back={tmp_path}/b.png")
    assert third.out == tmp_path / "out" / "lamps" / "1.glb"
    assert third.text is not None
    assert third.uv == "unwrap"
    assert run_sizes([first, second]).uv_size is None


def test_intermediates_of_all_items_have_a_folder_each(tmp_path: Path) -> None:
    manifest = write(tmp_path / "jobs.jsonl", {"mesh": "a.glb", "image": "a.png"})
    assert requests(manifest, "--save-intermediates", "steps")[0].save_intermediates == Path(
        "steps/a"
    )


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"image": "a.png"}], 'line 1.*"mesh"'),
        ([{"mesh": "a.glb"}, {"mesh": "b/a.glb"}], "line 2.*'a', as in line 1"),
        ([{"mesh": "a.glb", "name": "../a"}], "a name that files can have.*'../a'"),
        ([{"mesh": "a.glb", "image": "a.png", "sed": 1}], r"line 1 \(a\).*sed.*'seed'"),
        ([{"mesh": "a.glb", "image": "a.png", "model": "x"}], "for all items"),
        ([{"mesh": "a.glb", "image": "a.png", "seed": "x"}], r"line 1 \(a\).*seed"),
        ([{"mesh": "a.glb", "image": "a.png", "seed": [1]}], "one value"),
        ([{"mesh": "a.glb", "image": "a.png", "unwrap": "perhaps"}], "true or false"),
        ([{"mesh": "a.glb", "refs": "a.png"}], "an object such as"),
        ([{"mesh": "a.glb", "image": 3}], "image: expected a text"),
        ([{"mesh": "a.glb"}], "reference image"),
        (
            [{"mesh": f"{n}.glb", "image": "a.png", "out": "same.glb"} for n in "ab"],
            "line 2.*a result of its own.*line 1",
        ),
        ([{"mesh": "a.glb", "name": ""}], "line 1.*a name that files can have.*''.*Change"),
        ([{"mesh": "a.glb", "name": " "}], "a name that files can have"),
        ([{"mesh": "a.glb", "name": ".a"}], "a name that files can have"),
        ([{"mesh": "a.glb", "name": "a\nb"}], "a name that files can have"),
        ([{"mesh": "a.glb", "name": "a\0"}], "a name that files can have"),
        ([{"mesh": "a.glb", "name": "\ud800"}], "a name that files can have"),
        ([{"mesh": "a.glb", "name": "ä" * 101}], "a name that files can have"),
        ([{"mesh": "a.glb", "name": 7}], "a name that files can have.*got 7"),
        ([{"mesh": "a/.glb"}], "'.glb', from its mesh 'a/.glb'"),
        ([{"mesh": "a\0.glb", "name": "a"}], "mesh: expected a text, the path of a file"),
        ([{"mesh": "a.glb", "image": ""}], "image: expected a text, the path of a file"),
        ([{"mesh": f"{n}.glb"} for n in "abcdefg"], r"line 3 \(c\) and 4 more: reference image"),
    ],
)
def test_items_that_cannot_be_meant_are_named(
    tmp_path: Path, items: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(UsageError, match=f"(?s){told}"):
        requests(write(tmp_path / "jobs.jsonl", *items))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("jobs.jsonl", "{]\n", "line 1.*JSON object"),
        ("jobs.jsonl", "\n[1]\n", "line 2.*JSON object"),
        ("jobs.jsonl", "\n", "at least one item"),
        ("jobs.jsonl", '\n{"mesh": "a.glb", "mesh": "b.glb"}\n', "line 2.*'mesh' twice"),
        ("jobs.jsonl", '{"mesh": "a", "uv-size": 1, "uv_size": 2}', "line 1.*'uv_size' twice"),
        ("jobs.jsonl", '{"mesh": "a", "refs": {"left": "a", "left": "b"}}', "'left' twice"),
        ("jobs.jsonl", '{"mesh": ' + "[" * 9999, "line 1.*JSON object"),
        ("jobs.csv", "mesh,image,mesh\na,b,c\n", "line 1.*'mesh' twice"),
        ("jobs.csv", "\nmesh,uv-size, uv_size\na,1,2\n", "line 2.*'uv_size' twice"),
        ("jobs.csv", "mesh,refs\na,b\n", "ref.front"),
        ("jobs.csv", 'mesh,image\na,"b\nc,d\n', "line 3.*a row of CSV"),
        ("jobs.csv", "mesh,image\na.glb\n", "line 2.*2 cells.*got 1.* their commas"),
        ("jobs.csv", "mesh\na.glb,b.png\n", "line 2.*1 cells.*got 2.*double quotes"),
        ("jobs.txt", "", "Name the manifest first"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SeqTexError, match=told):
        read_manifest_items(path)
    with pytest.raises(InputError, match="got No such file or directory"):
        read_manifest_items(tmp_path / "missing.csv")


def test_a_line_ends_where_the_format_says(tmp_path: Path) -> None:
    """JSON texts may hold line separators, cells in quotes may hold ends of lines."""
    lines = tmp_path / "jobs.jsonl"
    lines.write_text('{"mesh": "a.glb", "text": "one\u2028two"}\r\n{"mesh": "b.glb"}', "utf-8")
    assert [item.name for item in read_manifest_items(lines)] == ["a", "b"]
    table = tmp_path / "jobs.csv"
    table.write_text('mesh,text\na.glb,"one\ntwo"\nb.glb,\n')
    items = read_manifest_items(table)
    assert [(item.name, item.line) for item in items] == [("a", 3), ("b", 4)]
    assert items[0].options["text"] == "one\ntwo"


def test_an_item_can_leave_out_what_all_others_do(tmp_path: Path) -> None:
    names = [{"mesh": f"{n}.glb", "image": "a.png", "unwrap": n == "b"} for n in "ab"]
    plain = {"mesh": "c.glb", "image": "a.png"}
    manifest = write(tmp_path / "jobs.jsonl", *names, plain)
    assert [r.uv for r in requests(manifest, "--unwrap")] == ["auto", "unwrap", "unwrap"]


# --- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "out",
    [
        "../a.glb",
        "/tmp/a.glb",
        "x/../../a.glb",
        "there/a.glb",
        "there/deeper/a.glb",
        "",
        3,
        "a.png",
    ],
)
def test_results_stay_in_their_folder(tmp_path: Path, out: object) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "there").symlink_to(tmp_path / "elsewhere")
    manifest = write(tmp_path / "jobs.jsonl", {"mesh": "a.glb", "image": "a.png", "out": out})
    with pytest.raises(UsageError, match=r"line 1 \(a\): out: expected"):
        requests(manifest)


def test_a_folder_of_results_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    items = [{"mesh": f"{n}.glb", "image": "a.png", "out": "x"} for n in "ab"]
    first, second = requests(write(tmp_path / "jobs.jsonl", *items))
    assert first.out == tmp_path / "out" / "x" / "a_textured.glb", "a folder, as for texture"
    assert second.out == tmp_path / "out" / "x" / "b_textured.glb"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"out": "x/a.glb"}, {"out": "./x//a.glb"}),
        ({"out": "b_textured.glb"}, {}),
        ({"out": "a.gltf"}, {"out": "b.gltf"}),  # their files keep names that the inputs gave
        ({"save_intermediates": "steps"}, {"save_intermediates": "./steps"}),
        ({}, {"image": "out/a_textured.glb"}),
    ],
)
def test_no_item_writes_over_another(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    items = [
        {"mesh": "a.glb", "image": "a.png"} | first,
        {"mesh": "b.glb", "image": "a.png"} | second,
    ]
    with pytest.raises(UsageError, match=r"line 2.*expected (a result of its own|inputs).*line 1"):
        requests(write(tmp_path / "jobs.jsonl", *items))
    assert len(requests(write(tmp_path / "jobs.jsonl", items[0] | {"name": "c"}))) == 1
