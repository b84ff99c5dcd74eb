"""Write what the live boxes of the site load: python tools/live.py [FOLDER], nbs/live/build when none is named.

The bundled models are exported in the browser layout, and ONNX Runtime comes from npm, in a version and with a checksum
that are pinned here. All is compressed, since a static server does not do it, and listed in manifest.json.
"""

import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "nbs" / "live" / "build"
SITE = ROOT / "tools" / "site"  # its .npmrc says how long npm tries
MODELS = {
    "fill-mask": "convbert-tiny",
    "sentiment": "convbert-tiny-sentiment",
    "tagging": "convbert-tiny-pos",
    "question-answering": "convbert-tiny-qa",
}
FILES = {"graph": "onnx/model_quantized.onnx", "tokenizer": "tokenizer.json", "config": "config.json"}
PACKAGES = {  # the version, and npm's checksum of it
    "onnxruntime-web": (
        "1.30.0",
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    ),
    "@huggingface/transformers": (  # for the tests
        "4.3.2",
        "sha512-V3+dqf3iWlRYJ9I9GreM3zGQd0lAXnnoPeddmkOQYWAEE4l/+Fi6p7tx/qVUJlKQgLXGim2W76rTOzz+eC0i7g==",
    ),
}
MOST = 8_000_000  # bytes that a box may load, which it says on its button
RUNTIME = {"script": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}  # in onnxruntime-web's dist


def unpack(package: str, folder: Path) -> Path:
    """Download a package from npm, compare its checksum, and unpack it; its folder."""
    version, checksum = PACKAGES[package]
    command = ["npm", "pack", f"{package}@{version}", "--json", "--prefer-offline", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=SITE, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    (packed,) = json.loads(done.stdout)
    if packed["integrity"] != checksum:
        raise SystemExit(f"{package} {version} is not what it was: {packed['integrity']}, not {checksum}")
    with tarfile.open(folder / packed["filename"]) as archive:
        archive.extractall(folder / package, filter="data")
    return folder / package / "package"


def compress(content: bytes, folder: Path, name: str) -> dict:
    """Write a compressed file; its name in the build, and its bytes."""
    file = folder / f"{name}.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content, 9, mtime=0))
    return {"file": f"{name}.gz", "bytes": file.stat().st_size}


def write_runtime(build: Path) -> dict:
    """Copy ONNX Runtime; its entry in the manifest."""
    with tempfile.TemporaryDirectory() as place:
        dist = unpack("onnxruntime-web", Path(place)) / "dist"
        script = build / "ort" / "ort.js"  # some servers do not know what .mjs is
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_bytes((dist / RUNTIME["script"]).read_bytes())
        wasm = compress((dist / RUNTIME["wasm"]).read_bytes(), build, "ort/ort.wasm")
    return {"script": {"file": "ort/ort.js", "bytes": script.stat().st_size}, "wasm": wasm}


def write_model(build: Path, task: str) -> dict:
    """Export a bundled model; its entry in the manifest."""
    from convbert.export import export

    with tempfile.TemporaryDirectory() as place:
        export(MODELS[task], Path(place) / task, precision="int8", layout="browser", output_attentions=True)
        read = {part: (Path(place) / task / name).read_bytes() for part, name in FILES.items()}
    files = {part: compress(content, build, f"models/{task}/{FILES[part]}") for part, content in read.items()}
    return {"model": MODELS[task], "files": files}


def write_build(build: Path = BUILD) -> Path:
    """Everything, in a folder; what is there already is replaced."""
    manifest = {"runtime": write_runtime(build), "models": {task: write_model(build, task) for task in MODELS}}
    for task, model in manifest["models"].items():
        size = sum(file["bytes"] for file in [*manifest["runtime"].values(), *model["files"].values()])
        if size > MOST:
            raise SystemExit(f"{task} loads {size} bytes, more than {MOST}")
    (build / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return build


if __name__ == "__main__":
    print(write_build(*map(Path, sys.argv[1:2])))
