"""Keeps home-made words out, where papers and transformers have a word of their own: python tools/old_words.py.

Reads the notebooks, the tests, the benchmarks, the tools, README.md and CONTRIBUTING.md, prints every old word with its
line and the field's word, and ends with 1 if there is one. A new word is a new entry in one of the three tables.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from notebooks import ROOT, cells, notebooks

# Names that mean nothing else, wherever they stand.
NAMES = {
    "look_far": "self_attention",
    "look_near": "span_dynamic_conv",
    "near_scores": "conv_kernel_logits",
    "span_scores": "conv_kernel_logits",
    "MixedMaps": "(attention, conv_kernel)",
    "with_maps": "output_attentions",
    "lay_rows": "to_blocks",
    "take_rows": "from_blocks",
    "add_margins": "overlap_add",
    "put_back": "pad",
    "box_with_zeros": "pad",
    "attend_apart": "varlen_attention",
    "attend_in_box": "padded_attention",
    "attend_quickly": "scaled_dot_product_attention",
    "works_on": "is_available",
    "use_kernel": "use_backend",
    "mixer.kernel": "backend",
    "first_only": "cls_only",
    "self.reach": "receptive_field",
    "padding_leaks": "legacy_padding",
    "call_widened": "call_in_float32",
    "as_narrow_as": "cast_like",
    "is_slow": "needs_upcast",
    "few_at_a_time": "a name with dropout and mask in it",
    "lots_are_dear": "a name with dropout and mask in it",
    "ForgetfulAttention": "a name with dropout in it",
    "lay_out": "prepare_mask",
    "as_given": "unpack",
    "SpanOutput": "QuestionAnsweringOutput",
    "Judgement": "Evaluation",
    "facts_of": "run_config",
}

# Names of functions and classes that are also plain English: only where they are defined, typed or called.
CALLED = {
    "Slide": "depthwise_conv",
    "Mix": "dynamic_conv",
    "openings": "first_tokens",
    "Forget": "Dropout",
    "think": "feed_forward",
    "bend": "activation",
    "Encoded": "EncoderOutput",
    "silence": "make_head_mask",
    "Job": "TaskSpec",
    "Row": "EncodedInput",
    "Told": "RunStats",
    "judge": "evaluate",
    "Team": "a process group",
    "Work": "TaskData",
    "listen": "capture",
    "dress": "style_axes",
}

# Modules by their old names, as a part of an import or of a notebook's path.
MODULES = {
    "kernels/halves": "runtime/half_precision",
    "kernels/choose": "backends/dispatch",
    "pipelines/running": "pipelines/base",
    "pipelines/reading": "pipelines/preprocessing",
    "pipelines/answers": "pipelines/outputs",
    "training/judging": "training/evaluation",
    "training/machine": "training/distributed",
    "training/rows": "training/datasets",
    "visualize/split": "visualize/head_contributions",
    "visualize/behind": "visualize/mask_prediction",
    "visualize/canvas": "visualize/style",
}

# Turns of speech: tight patterns, so that a box in a figure and light that bends may stay.
PROSE = {
    r"thinks? for (?:itself|themselves)": "the feed-forward sublayer",
    r"(?:tokens?|layers?) (?:needs? (?:not|to) )?thinks?": "the feed-forward sublayer",
    r"widen, bend, narrow": "up projection, activation, down projection",
    r"bends,|bending\b|(?:are|is|be) bent\b": "activation",
    r"teach(?:es|ing)? (?:a|the|its|your) (?:model|head|encoder)": "fine-tune",
    r"draw(?:s|n|ing)? (?:as )?(?:a|the) graph|graphs? (?:that )?(?:is|are|was|were) drawn": "export",
    r"judging": "evaluation",
    r"knock-outs?|knocks? (?:a )?heads? out": "ablation",
    r"(?:in|into|of|than) (?:a|the) box (?:of rows|`\()|\*box\*|packed\.(?:un)?box": "the padded layout",
}


def patterns() -> dict[re.Pattern, str]:
    """All entries of the tables as patterns of whole words."""
    called = r"(?:\b(?:class|def|->|import) {0}\b|: {0}(?= ?[,)=])|\b{0}(?=[(\]]|\.apply))"
    entries = {rf"\b{re.escape(name)}\b": better for name, better in NAMES.items()}
    entries |= {called.format(name): better for name, better in CALLED.items()}
    entries |= {rf"\b{name.replace('/', r'[./](?:[0-9]+_)?')}\b": better for name, better in MODULES.items()}
    entries |= {rf"(?<![\w-])(?:{words})(?![\w-])": better for words, better in PROSE.items()}
    return {re.compile(pattern): better for pattern, better in entries.items()}


PATTERNS = patterns()


def old_words(text: str) -> Iterator[tuple[int, str, str]]:
    """The line, counted from 1, the old word that stands there, and the field's word."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better in PATTERNS.items():
            for found in pattern.finditer(line):
                yield number, found[0], better


def texts(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """All that is read: a place and its text, cell by cell where it is a notebook."""
    for path in notebooks(root):
        for cell in cells(path):
            yield f"{path.relative_to(root).as_posix()}, cell {cell['number']}, line ", cell["source"]
    files = [path for folder in ("tests", "benchmarks", "tools") for path in sorted((root / folder).rglob("*.py"))]
    for path in [*files, root / "README.md", root / "CONTRIBUTING.md"]:
        if path.name != Path(__file__).name and path.exists():
            yield f"{path.relative_to(root).as_posix()}:", path.read_text(encoding="utf-8")


def faults(root: Path = ROOT) -> Iterator[str]:
    """All old words, a line each."""
    for place, text in texts(root):
        for number, word, better in old_words(text):
            yield f"{place}{number}: {word!r}; the field's word: {better}"


if __name__ == "__main__":
    found = list(faults())
    raise SystemExit("\n".join([*found, f"{len(found)} old words"]) if found else 0)
