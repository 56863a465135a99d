"""What a model file could do when it is loaded: scanned first, then loaded the safe way. No gate is set here.

A pickle runs whatever callables it names. The scan reads its opcodes (`pickletools`, which executes nothing) and lets
only the constructors of tensors pass; archives are searched for pickles at any depth.
"""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlops_assets.foundation.errors import InputError

_CONSTRUCTORS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch FloatStorage",
        "torch DoubleStorage",
        "torch HalfStorage",
        "torch BFloat16Storage",
        "torch LongStorage",
        "torch IntStorage",
        "torch BoolStorage",
        "torch Size",
        "torch device",
    }
)
# torch.save writes protocol 2, where a callable is named by GLOBAL. The others name it in ways the scan cannot resolve.
_OPAQUE = frozenset({"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib"})
_TORCH_SUFFIXES = frozenset({".pt", ".pth"})
_ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# Zip bombs: no weight of ours comes near, and an archive in an archive in an archive has no reason to exist.
_MAX_MEMBER_BYTES = 4 * 1024**3
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Finding:
    """One reason not to load a file."""

    file: str
    problem: str


@dataclass(frozen=True)
class SecurityReport:
    """What was scanned and what was found; safe when nothing was."""

    files: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def safe(self) -> bool:
        """True when every file was scanned and none raised a finding."""
        return not self.findings


def scan_files(files: list[Path]) -> SecurityReport:
    """Scan a model's files: torch archives and pickles by opcode and by a weights-only load, ONNX by what it refers to.

    Raises:
        InputError: there is no file to scan, or one does not exist.
    """
    if not files:
        raise InputError("no model file to scan; give the checkpoint and the exported model")
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputError(f"model files to scan do not exist: {', '.join(missing)}; train again")
    findings = [Finding(file.name, problem) for file in files for problem in _problems(file)]
    return SecurityReport(tuple(file.name for file in files), tuple(findings))


def _problems(file: Path) -> Iterator[str]:
    if file.suffix == ".onnx":
        yield from _onnx_problems(file)
    elif file.suffix in _TORCH_SUFFIXES or zipfile.is_zipfile(file):
        yield from _torch_problems(file)
    elif file.suffix in _PICKLE_SUFFIXES:
        yield from _pickle_problems(file.read_bytes())
    # Anything else (YAML, JSON, CSV, pictures) is never executed by what reads it.


def _torch_problems(file: Path) -> Iterator[str]:
    if not zipfile.is_zipfile(file):
        yield "is no zip archive: torch's old format is one bare pickle"
        return
    found = list(_archive_problems(file.read_bytes(), depth=1))
    yield from found
    # Only a file whose opcodes are clean is ever opened, and then without arbitrary callables.
    if not found and file.suffix in _TORCH_SUFFIXES:
        yield from _load_problems(file)


def _archive_problems(content: bytes, depth: int) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.file_size > _MAX_MEMBER_BYTES:
                yield f"{member.filename} unpacks to {member.file_size} bytes"
                continue
            suffix = Path(member.filename).suffix
            if suffix in _PICKLE_SUFFIXES:
                yield from (f"{member.filename} {problem}" for problem in _pickle_problems(archive.read(member)))
            elif suffix in _TORCH_SUFFIXES | {".zip"}:
                yield from _nested_problems(member.filename, archive.read(member), depth)


def _nested_problems(name: str, content: bytes, depth: int) -> Iterator[str]:
    if depth >= _MAX_DEPTH:
        yield f"{name} is nested {depth} archives deep"
    elif not zipfile.is_zipfile(io.BytesIO(content)):
        yield f"{name} is no zip archive: torch's old format is one bare pickle"
    else:
        yield from (f"{name}: {problem}" for problem in _archive_problems(content, depth + 1))


def _pickle_problems(content: bytes) -> Iterator[str]:
    try:
        for opcode, argument, _position in pickletools.genops(content):
            if opcode.name in _OPAQUE:
                yield f"names a callable by {opcode.name}"
            elif opcode.name == "GLOBAL" and argument not in _CONSTRUCTORS:
                yield f"calls {str(argument).replace(' ', '.')}"
    except ValueError as error:
        yield f"is a damaged pickle ({error})"


def _load_problems(file: Path) -> Iterator[str]:
    import torch

    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever torch raises here, the finding is that it does not load
        yield f"does not load with weights_only=True ({type(error).__name__}: {error})"


def _onnx_problems(file: Path) -> Iterator[str]:
    import onnx

    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf has its own error types; the finding is that it does not load
        yield f"is no ONNX model ({type(error).__name__}: {error})"
        return
    for domain in sorted({opset.domain for opset in model.opset_import} - _ONNX_DOMAINS):
        yield f"needs operators of {domain!r}, which load a shared library"
    folder = file.parent.resolve()
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and (folder / entry.value).resolve().parent != folder:
                yield f"reads weights from {entry.value}, outside its folder"
