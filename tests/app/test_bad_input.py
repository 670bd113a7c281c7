"""Every kind of bad input: its exit code, what the message says, and that nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

Seqtex = Callable[..., Any]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(seqtex: Seqtex, work: Path, arguments: list[str | Path], code: int) -> str:
    """Run, demand the exit code, a short message and an untouched folder; the message."""
    before = snapshot(work)
    outcome = seqtex(*arguments)
    assert outcome.code == code, outcome.err
    assert snapshot(work) == before
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    message: str = outcome.err[outcome.err.index("Error: ") :]
    assert len(message.splitlines()) <= 4
    return message


@pytest.fixture
def good(work: Path) -> list[str | Path]:
    """A command that works; tests change one thing about it."""
    return ["texture", work / "figure.glb", "--image", work / "views" / "0_front.png"]


def with_mesh(good: list[str | Path], mesh: Path) -> list[str | Path]:
    return [good[0], mesh, *good[2:]]


def with_image(good: list[str | Path], image: Path) -> list[str | Path]:
    return [*good[:3], image]


def test_missing_mesh(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    message = refused(seqtex, work, with_mesh(good, work / "no.glb"), 3)
    assert "no.glb" in message
    assert "nothing at this path" in message


@pytest.mark.parametrize("keep", [10, 19, 200, 0.5, 0.999])
def test_truncated_glb(seqtex: Seqtex, work: Path, good: list[str | Path], keep: float) -> None:
    data = (work / "figure.glb").read_bytes()
    length = keep if isinstance(keep, int) else int(len(data) * keep)
    (work / "cut.glb").write_bytes(data[:length])
    assert "cut.glb" in refused(seqtex, work, with_mesh(good, work / "cut.glb"), 3)


def test_no_faces(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    (work / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    assert "faces" in refused(seqtex, work, with_mesh(good, work / "points.obj"), 3)


def test_positions_that_are_not_numbers(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    mesh = trimesh.creation.box()
    vertices = np.array(mesh.vertices)
    vertices[3, 1] = np.nan
    lines = [f"v {x} {y} {z}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
    (work / "nan.obj").write_text("\n".join(lines))
    message = refused(seqtex, work, with_mesh(good, work / "nan.obj"), 3)
    assert "finite" in message


def test_all_vertices_at_one_point(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    (work / "dot.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    assert "point" in refused(seqtex, work, with_mesh(good, work / "dot.obj"), 3)


def test_unknown_mesh_format(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    (work / "a.docx").write_bytes(b"PK")
    assert ".glb" in refused(seqtex, work, with_mesh(good, work / "a.docx"), 3)


def test_unreadable_texture(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    (work / "t.obj").write_text("mtllib t.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (work / "t.mtl").write_text("newmtl a\nmap_Kd t.png\n")
    (work / "t.png").write_bytes(b"not a picture")
    assert "t.png" in refused(seqtex, work, ["render", work / "t.obj", "-o", work / "v"], 3)


def test_missing_image(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    assert "no.png" in refused(seqtex, work, with_image(good, work / "no.png"), 3)


@pytest.mark.parametrize("keep", [0, 5, 300])
def test_image_that_is_not_one(
    seqtex: Seqtex, work: Path, good: list[str | Path], keep: int
) -> None:
    data = (work / "views" / "0_front.png").read_bytes()
    (work / "bad.png").write_bytes(data[:keep])
    message = refused(seqtex, work, with_image(good, work / "bad.png"), 3)
    assert "do not decode" in message


@pytest.mark.parametrize(
    ("size", "says"), [((64, 48), "square"), ((8, 8), "at least"), ((64, 64), "transparent")]
)
def test_image_of_no_use(
    seqtex: Seqtex, work: Path, good: list[str | Path], size: tuple[int, int], says: str
) -> None:
    Image.new("RGBA", size, (0, 0, 0, 0)).save(work / "bad.png")
    assert says in refused(seqtex, work, with_image(good, work / "bad.png"), 3)


def test_silhouette_of_another_view(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    """The overlap is printed, the threshold is named, and so is the view that fits."""
    message = refused(seqtex, work, with_image(good, work / "views" / "1_left.png"), 3)
    assert "--min-iou" in message
    assert "0.80" in message
    assert "got       IoU 0." in message
    assert "fits the view 'left'" in message


def test_silhouette_of_an_opaque_picture_is_measured_too(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    picture = Image.new("RGB", (128, 128), "white")
    picture.paste((200, 30, 30), (10, 10, 40, 40))
    picture.save(work / "square.png")
    assert "got       IoU 0." in refused(seqtex, work, with_image(good, work / "square.png"), 3)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--ref-view", "fron"], "Did you mean 'front'?"),
        (["--ref-view", "top"], "front, left, back, right"),
        (["--ref", "front=a.png"], "got       both"),
        (["--method", "projekt"], "Did you mean 'project'?"),
        (["--method", "project", "--steps", "30"], "--method model"),
        (["--method", "project", "--model", "seqtex-tiny"], "--method model"),
        (["--method", "project", "--seed", "1", "--prompt", "x"], "--seed, --prompt"),
        (["--prompt", "x"], "made without text"),
        (["--method", "model", "--task", "geo2mv"], "makes views"),
        (["--method", "model", "--task", "img2text"], "Did you mean 'img2tex'?"),
        (["--method", "model", "--task", "mv2tex"], "none for left, back, right"),
        (["--method", "model", "--steps", "0"], "1 to 1000"),
        (["--method", "model", "--guidance", "3"], "--prompt"),
        (["--method", "model", "--guidance", "0.5", "--prompt", "x"], "1 to 100"),
        (["--method", "model", "--dtype", "float8"], "float32"),
        (["--method", "model", "--seed", "-1"], "--seed"),
        (["--uv-size", "4"], "16 to 8192"),
        (["--min-iou", "80"], "[0, 1]"),
        (["--keep-uv", "--unwrap"], "one of the two"),
        (["--up", "w"], "--up"),
        (["--up", "z", "--front=-z"], "right angle"),
        (["--rasterizer", "embre"], "Did you mean 'embree'?"),
        (["--device", "cpuu"], "--device"),
        (["-o", "result.stl"], ".glb"),
    ],
)
def test_bad_options(
    seqtex: Seqtex, work: Path, good: list[str | Path], extra: list[str], says: str
) -> None:
    assert says in refused(seqtex, work, [*good, *extra], 2)


@pytest.mark.parametrize(
    ("refs", "says"),
    [
        ([], "--image FILE or --ref VIEW=FILE"),
        (["front"], "VIEW=PATH"),
        (["front="], "VIEW=PATH"),
        (["frnt=a.png"], "Did you mean 'front'?"),
        (["front=a.png", "front=b.png"], "twice"),
    ],
)
def test_bad_references(seqtex: Seqtex, work: Path, refs: list[str], says: str) -> None:
    options = [part for ref in refs for part in ("--ref", ref)]
    assert says in refused(seqtex, work, ["texture", work / "figure.glb", *options], 2)


@pytest.mark.parametrize("words", [["textur"], ["texture", "--imag", "a"], ["maps", "a.glb"]])
def test_words_that_the_parser_does_not_know(seqtex: Seqtex, words: list[str]) -> None:
    outcome = seqtex(*words)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_keep_uv_without_uvs(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    arguments = [*with_mesh(good, work / "bare.ply"), "--keep-uv"]
    assert "--keep-uv" in refused(seqtex, work, arguments, 3)


@pytest.mark.parametrize("command", ["texture", "maps", "render", "intermediates"])
def test_a_place_that_cannot_be_written(
    seqtex: Seqtex, work: Path, good: list[str | Path], command: str
) -> None:
    """A file stands where a folder would have to be: no user, not even root, can write there."""
    (work / "wall").write_text("in the way")
    inside = work / "wall" / "deeper" / "out.glb"
    arguments: list[str | Path] = [command, work / "figure.glb", "-o", inside]
    if command == "texture":
        arguments = [*good, "-o", inside]
    elif command == "intermediates":
        arguments = [*good, "--save-intermediates", inside]
    assert "wall" in refused(seqtex, work, arguments, 2)


def test_the_input_is_never_overwritten(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    arguments = [*good, "-o", work / "views" / ".." / "figure.glb", "--overwrite"]
    assert "input" in refused(seqtex, work, arguments, 2)


def test_a_file_of_somebody_else_is_not_replaced(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    (work / "figure_textured.glb").write_bytes(b"precious")
    assert "--overwrite" in refused(seqtex, work, good, 2)


def test_a_folder_of_somebody_else_is_not_written_into(seqtex: Seqtex, work: Path) -> None:
    arguments: list[str | Path] = ["maps", work / "figure.glb", "-o", work / "views" / ".."]
    assert "--overwrite" in refused(seqtex, work, arguments, 2)


def test_a_device_that_is_not_there(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    message = refused(seqtex, work, [*good, "--device", "cuda:99"], 4)
    assert "cuda:99" in message
    assert "--device cpu" in message


def test_a_rasterizer_that_cannot_run_here(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    """The empty package called kaolin, no package, or no CUDA: each is a reason."""
    assert "Backends that run here" in refused(seqtex, work, [*good, "--rasterizer", "kaolin"], 4)


def test_a_mesh_without_area(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    (work / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\nf 1 1 2\n")
    message = refused(seqtex, work, with_mesh(good, work / "flat.obj"), 3)
    assert "none among 2" in message


@pytest.mark.parametrize("size", [0.0, 0.01])
def test_uvs_that_are_no_layout(
    seqtex: Seqtex, work: Path, good: list[str | Path], size: float
) -> None:
    """Dummy UVs or a palette: nothing can be painted there, so nothing is pretended."""
    vertices, faces = trimesh.creation.box().vertices, trimesh.creation.box().faces
    lines = [f"v {x} {y} {z}" for x, y, z in vertices] + ["vt 0.5 0.5"]
    lines += [f"vt {0.5 + size} 0.5", f"vt 0.5 {0.5 + size}"]
    lines += ["f " + " ".join(f"{i + 1}/{k + 1}" for k, i in enumerate(face)) for face in faces]
    (work / "dummy.obj").write_text("\n".join(lines))
    message = refused(seqtex, work, with_mesh(good, work / "dummy.obj"), 3)
    assert "100% of it on single points" in message
    assert "--unwrap" in message


def test_intermediates_go_where_no_input_is(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    """A painted-over picture among the intermediates of an earlier run is not replaced."""
    steps = work / "steps"
    (steps / "references").mkdir(parents=True)
    (steps / "steps.json").write_text("{}")
    (steps / "references" / "0_front.png").write_bytes((work / "views/0_front.png").read_bytes())
    command = with_image(good, steps / "references" / "0_front.png")
    message = refused(seqtex, work, [*command, "--save-intermediates", steps], 2)
    assert "--save-intermediates" in message
    assert "without inputs" in message
    message = refused(seqtex, work, [*good, "--save-intermediates", work / "figure.glb"], 2)
    assert "--save-intermediates" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "synth", "FILE", "--count", "1"],
        ["data", "prepare", ".", "-o", "FILE"],
        ["train", "run.toml", "-o", "FILE"],
    ],
)
def test_a_file_in_place_of_a_folder(
    seqtex: Seqtex, work: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str | Path]
) -> None:
    monkeypatch.chdir(work)
    (work / "run.toml").write_text(
        'data.source = "sphere"\nstages = [{steps = 1, tasks = {img2tex = 1}, learning_rate = 1}]\n'
    )
    message = refused(seqtex, work, [str(a).replace("FILE", "figure.glb") for a in arguments], 2)
    assert "a folder that can be written" in message
    assert "figure.glb" in message


def test_a_mesh_in_place_of_a_folder_of_meshes(seqtex: Seqtex, work: Path) -> None:
    arguments = ["data", "prepare", work / "figure.glb", "-o", work / "set"]
    assert "got       a file" in refused(seqtex, work, arguments, 3)
