"""How fast in TensorFlow and in JAX: python benchmarks/frameworks.py [--reference-python PATH] [--out FILE.json].

Forward passes of base models over 8 texts of 128 tokens: ours in Keras (a TensorFlow graph), in Flax (`jax.jit`) and in
PyTorch, beside the TensorFlow and Flax classes of transformers. Its version 5 has none, so they run in a process of
their own, by the interpreter of an environment with transformers 4.57.6; tests/reference/tensorflow_and_flax.py says
how to make one. Without `--reference-python` ours are compared with each other.

All have the same weights, and that their outputs are equal is checked first. In each round every program runs once, in
random order, so that other load on the machine affects all of them alike; the result is the median over rounds of the
ratio of two times of a round. --quick is a smoke test: one layer, two rounds, meaningless numbers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

with suppress(ImportError):
    import triton  # noqa: F401  (torch's counter of operations would import it after TensorFlow, where it crashes)

MODELS = "ConvBert", "DistilBert"
FLAX_OF_TRANSFORMERS = ("DistilBert",)
SHAPE = (8, 128)
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


def make_batch():
    """Random tokens, without padding."""
    import numpy as np

    ids = np.random.RandomState(0).randint(5, 30522, SHAPE).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def tensorflow_program(model: Callable) -> Callable:
    """A forward pass as a graph that takes batches of any shape."""
    import tensorflow as tf

    spec = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[spec, spec])
    def forward(ids, mask):
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    batch = [tf.constant(value) for value in make_batch().values()]
    return lambda: forward(*batch).numpy()


def jax_program(forward: Callable, parameters) -> Callable:
    """A compiled forward pass; `forward` takes parameters, ids and a mask."""
    import jax
    import numpy as np

    compiled, batch = jax.jit(forward), [jax.numpy.asarray(value) for value in make_batch().values()]
    return lambda: np.asarray(compiled(parameters, *batch))


# -- transformers, in a process of its own


def reference_programs(folder: str, name: str) -> dict[str, Callable]:
    """Forward passes of transformers' classes of version 4, by framework."""
    import transformers

    model = getattr(transformers, f"TF{name}Model").from_pretrained(folder, from_pt=True)
    programs = {"TensorFlow": tensorflow_program(model)}
    if name in FLAX_OF_TRANSFORMERS:
        flax = getattr(transformers, f"Flax{name}Model").from_pretrained(folder, from_pt=True)

        def forward(parameters, ids, mask):
            return flax(ids, attention_mask=mask, params=parameters).last_hidden_state

        programs["Flax"] = jax_program(forward, flax.params)
    return programs


def serve(folder: str, name: str) -> None:
    """Run the program of each line of the input, and write its output to the file that the line names, if any."""
    import numpy as np

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    programs = reference_programs(folder, name)
    print(json.dumps([*programs]), file=answers, flush=True)
    for line in sys.stdin:
        framework, place = json.loads(line)
        output = programs[framework]()
        if place:
            np.save(place, output)
        print("done", file=answers, flush=True)


class Reference:
    """Transformers' programs for one model, in a child process; `run` waits for one of them."""

    def __init__(self, python: str, folder: str, name: str):
        """Start the process and wait for its models."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["TF_USE_LEGACY_KERAS"] = "1"
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen([python, __file__, "--serve", folder, name], env=environment, **pipes)
        self.frameworks = json.loads(self.answer())

    def answer(self) -> str:
        """The next line of the process."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of transformers ended with {self.process.wait()}; see what it printed")
        return line

    def run(self, framework: str, place: str = "") -> None:
        """One run, whose output goes to a file if there is a place for it."""
        print(json.dumps([framework, place]), file=self.process.stdin, flush=True)
        self.answer()

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


# -- ours


def our_programs(folder: str, name: str, threads: int) -> dict[str, Callable]:
    """Forward passes of our models, by framework."""
    import torch
    from flax import nnx

    import convbert

    torch.set_num_threads(threads)
    model = getattr(convbert, f"{name}Model").from_pretrained(folder)
    batch = {key: torch.from_numpy(value).long() for key, value in make_batch().items()}
    keras_model = getattr(convbert, f"TF{name}Model").from_pretrained(folder)
    graph, state = nnx.split(getattr(convbert, f"Flax{name}Model").from_pretrained(folder))

    def forward(state, ids, mask):
        return nnx.merge(graph, state)(input_ids=ids, attention_mask=mask).last_hidden_state

    return {
        "ours, Keras": tensorflow_program(keras_model),
        "ours, Flax": jax_program(forward, state),
        "our PyTorch": lambda: model(**batch).last_hidden_state.numpy(),
    }


def check_equal(outputs: dict, limit: float = 1e-3) -> None:
    """Exit unless all programs computed the same."""
    import numpy as np

    first, *others = outputs
    for other in others:
        difference = np.abs(outputs[first] - outputs[other]).max()
        if not difference < limit:
            raise SystemExit(f"{first} and {other} differ by {difference:.3g}, more than {limit:g}: not the same work")


def report(name: str, python: str | None, threads: int, rounds: int, quick: bool) -> dict:
    """Median ratios of one model."""
    import numpy as np
    import torch
    from compare import measure, ratios

    import convbert
    from convbert.weights import read_state

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        config = getattr(convbert, f"{name}Config").preset("base", **(dict(num_hidden_layers=1) if quick else {}))
        getattr(convbert, f"{name}Model")(config).save_pretrained(folder)
        torch.save(read_state(folder), Path(folder, "pytorch_model.bin"))  # version 4 fails at today's safetensors
        programs = our_programs(folder, name, threads)
        outputs = {key: run() for key, run in programs.items()}
        reference = Reference(python, folder, name) if python else None
        for framework in reference.frameworks if reference else ():
            place = str(Path(folder, f"{framework}.npy"))
            reference.run(framework, place)
            outputs[f"transformers, {framework}"] = np.load(place)
            programs[f"transformers, {framework}"] = lambda framework=framework: reference.run(framework)
        check_equal(outputs)
        times = measure(programs, rounds, grad=False)
        if reference:
            reference.stop()
    seconds = {key: round(statistics.median(each), 5) for key, each in times.items()}
    return {"seconds": seconds, "ratios": ratios(times)}


def table(name: str, result: dict) -> str:
    """A line for each of our programs and each program that it is compared with."""
    lines = [
        f"{name}: " + ", ".join(f"{program} {spent * 1000:.0f} ms" for program, spent in result["seconds"].items())
    ]
    lines += [f"{'':12} {'':14} {'compared with':26} {'faster by':>9} {'quartiles':>16}"]
    for ours, others in result["ratios"].items():
        for other, found in others.items():
            quartiles = f"{found['from']:.2f} to {found['to']:.2f}"
            lines.append(f"{'':12} {ours:14} {other:26} {found['faster']:>9.2f} {quartiles:>16}")
    return "\n".join(lines)


def main():
    """Compare, or be the process that is compared with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*MODELS], metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--reference-python", metavar="PATH", help="of an environment with transformers 4")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.models) - set(MODELS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    if args.serve:
        return serve(args.serve, args.models[0])
    os.environ |= {"TF_NUM_INTRAOP_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
    libraries = ("tensorflow", "keras", "jax", "flax", "torch")
    results = {"threads": args.threads, "versions": {name: import_module(name).__version__ for name in libraries}}
    for name in args.models:
        results[name] = report(name, args.reference_python, args.threads, 2 if args.quick else args.rounds, args.quick)
        print(table(name, results[name]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
