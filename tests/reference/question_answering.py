"""Reference answers of transformers' question-answering pipeline, which its version 5 no longer has.

    python tests/reference/question_answering.py /path/to/python-with-transformers-4 DATA/tasks/squad/dev.jsonl

run in this package's environment writes `question_answering.json` beside this file. The model is made here from a seed
of NumPy's frozen generator, so the weights need not be kept, nor does making them need transformers. The file holds the
version of transformers, and for each case and each item its answers as [score, start, end].
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

FIXTURE = Path(__file__).with_suffix(".json")
ITEMS = 200
CASES = {  # name -> arguments of the pipeline; rows of 96 tokens make most contexts stride over several
    "plain": dict(top_k=1),
    "impossible": dict(top_k=1, handle_impossible_answer=True, max_seq_len=96),
    "five": dict(top_k=5, max_seq_len=96, doc_stride=48),
    "five, impossible": dict(top_k=5, handle_impossible_answer=True),
    "tokens": dict(top_k=3, max_answer_len=5, max_seq_len=128, doc_stride=20, align_to_words=False),
}


def make_folder(folder, qa=1.0, lean=10.0):
    """Write a random model, scaled so that scores are large and "no answer" wins at times; and a tokenizer."""
    import numpy as np
    import torch

    from convbert.families.convbert import ConvBertConfig
    from convbert.modeling import ConvBertForQuestionAnswering
    from convbert.tokenizers.classes import ConvBertTokenizerFast

    tokenizer = ConvBertTokenizerFast.from_pretrained("convbert-tiny")
    config = ConvBertConfig.preset(
        "tiny", vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=32, embedding_size=32, intermediate_size=64
    )
    model, draw = ConvBertForQuestionAnswering(config).eval(), np.random.RandomState(0)
    state = model.state_dict()
    for name, values in sorted(state.items()):
        if values.is_floating_point() and "orm" not in name:  # layer norms stay what they are
            noise = torch.from_numpy(draw.standard_normal(tuple(values.shape))).float()
            values.copy_(
                noise * (qa if "qa_outputs" in name else 0.02 if name.endswith("bias") or "position" in name else 0.3)
            )
    ids = torch.from_numpy(draw.randint(len(tokenizer), size=(8, 64)))
    ids[:, 0] = tokenizer.cls_token_id
    with torch.inference_mode():
        hidden = model.encode(ids).last_hidden_state
    apart = hidden[:, 0].mean(0) - hidden[:, 1:].mean((0, 1))  # what sets [CLS] apart: at times it wins
    state["qa_outputs.weight"].add_(lean * apart / apart.norm())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_items(data):
    """The first questions of the file."""
    with open(data, encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(ITEMS), lines, strict=False)]


def answer(folder, data):
    """What transformers 4 answers; run by its interpreter."""
    import transformers
    from transformers import BertTokenizerFast, ConvBertForQuestionAnswering, QuestionAnsweringPipeline

    # the plain class, since transformers 4 and 5 write and read extra_special_tokens in two different forms
    tokenizer = BertTokenizerFast(str(Path(folder) / "vocab.txt"), model_max_length=512)
    model = ConvBertForQuestionAnswering.from_pretrained(folder).eval()
    pipe = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, device="cpu")
    found = {"transformers": transformers.__version__}
    for name, options in CASES.items():
        found[name] = []
        for item in read_items(data):
            rows = pipe(question=item["question"], context=item["context"], **options)
            rows = rows if isinstance(rows, list) else [rows]
            if any(row["answer"] != item["context"][row["start"] : row["end"]] for row in rows):
                raise SystemExit(f"{item['id']}: an answer that is not where it is said to be")
            found[name].append([[float(f"{row['score']:.7g}"), row["start"], row["end"]] for row in rows])
    return found


def ask(python, data):
    """The reference answers of the transformers 4 of another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder)
        done = subprocess.run(
            [python, __file__, "--answer", folder, str(data)], check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout)


if __name__ == "__main__" and sys.argv[1] == "--answer":
    print(json.dumps(answer(*sys.argv[2:])))
elif __name__ == "__main__":
    FIXTURE.write_text(json.dumps(ask(*sys.argv[1:]), separators=(",", ":")) + "\n")
