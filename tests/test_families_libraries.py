"""ELECTRA, ALBERT and DistilBERT in transformers' Trainer, in PEFT and sentence-transformers; tokenizers' `pad`."""

import warnings

import numpy as np
import pytest
import torch
from family_pairs import KINDS, transformers
from torch.testing import assert_close

import convbert
from convbert.families.registry import FAMILIES

TEXTS = ["a good film", "an awful, far too long film that nobody needs", "nice", "bad"]
PAIR = {"electra": ["query", "value"], "albert": ["query", "value"], "distilbert": ["q_lin", "v_lin"]}
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)


def make_tokenizer(kind):
    """A small tokenizer of the family, with a vocabulary learnt from a few texts."""
    return getattr(convbert, f"{FAMILIES[kind].prefix}TokenizerFast").train(TEXTS * 5, vocab_size=80)


def make(kind, tokenizer, head="ForSequenceClassification", **values):
    family = FAMILIES[kind]
    zero = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    zero |= {"embedding_size": 16} if kind != "distilbert" else {"seq_classif_dropout": 0.0}
    torch.manual_seed(0)
    config = family.config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES, **zero, **values)
    return getattr(convbert, family.prefix + head)(config).eval()


def trainer(model, tokenizer, folder, rows, **arguments):
    args = dict(num_train_epochs=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True)
    args |= dict(save_strategy="no", seed=0)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(str(folder), **{**args, **arguments}),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_trainer_trains_and_saves(kind, tmp_path):
    tokenizer = make_tokenizer(kind)
    rows = [dict(tokenizer(text), label=i % 2) for i, text in enumerate(TEXTS)]
    assert all(("token_type_ids" in row) == (kind != "distilbert") for row in rows)
    model = make(kind, tokenizer)
    before = model.encoder.layers[0].mixer.output.weight.clone()
    run = trainer(model, tokenizer, tmp_path, rows, save_strategy="epoch")
    run.train()
    assert not model.encoder.layers[0].mixer.output.weight.equal(before) and run.evaluate()["eval_loss"] > 0
    frugal = trainer(make(kind, tokenizer), tokenizer, tmp_path, rows, gradient_checkpointing=True)
    frugal.train()
    for (name, ours), others in zip(model.named_parameters(), frugal.model.parameters(), strict=True):
        assert_close(ours, others, atol=1e-5, rtol=1e-4, msg=name)
    run.save_model(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"number of heads.*model.config.save_pretrained\(folder\)"):
        type(model).from_pretrained(tmp_path / "saved")
    model.config.save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = convbert.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    given = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert_close(loaded(**given).logits, model.eval()(**given).logits)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "Model"])
@pytest.mark.parametrize("kind", KINDS)
def test_lora_is_learnt_saved_and_merged(kind, head, tmp_path):
    peft = pytest.importorskip("peft", reason="pip install peft")
    tokenizer = make_tokenizer(kind)
    model, given = make(kind, tokenizer, head), tokenizer(TEXTS, padding=True, return_tensors="pt")
    before = model(**given)[0].detach()
    task = {"ForSequenceClassification": "SEQ_CLS", "Model": "FEATURE_EXTRACTION"}[head]
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task, target_modules=PAIR[kind], r=2)).eval()
    assert_close(adapted(**given)[0], before)  # LoRA begins with nothing
    adapted.train()(**given)[0].square().sum().backward()
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is not None]
    layers = 1 if kind == "albert" else 2  # ALBERT's two share one adapter
    assert [sum(f".{word}.lora_B" in name for name in trained) for word in PAIR[kind]] == [layers, layers]
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    after = adapted.eval()(**given)[0].detach()
    assert (after - before).abs().max() > 1e-4
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(make(kind, tokenizer, head), tmp_path / "adapter").eval()
    assert_close(again(**given)[0], after)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)
    assert_close(merged(**given)[0], after, atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(type(model).from_pretrained(tmp_path / "merged")(**given)[0], after, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_transformers_trained(kind, tmp_path):
    """Names inside the layers are those on disk, so weights of an adapter go from one to the other by their ends."""
    peft = pytest.importorskip("peft", reason="pip install peft")
    tokenizer = make_tokenizer(kind)
    model = make(kind, tokenizer, "Model")
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    config = peft.LoraConfig(target_modules=PAIR[kind], r=2)
    ours, others = peft.get_peft_model(model, config).eval(), peft.get_peft_model(theirs, config).eval()
    found = [[name.rpartition(".lora_")[0].rpartition(".")[2] for name in m.state_dict() if ".lora_A" in name]
             for m in (ours, others)]  # fmt: skip
    assert found[0] == found[1]
    weights = [p for name, p in others.named_parameters() if ".lora_" in name]
    with torch.no_grad():
        for p, (_, mine) in zip(weights, [x for x in ours.named_parameters() if ".lora_" in x[0]], strict=True):
            mine.copy_(p.normal_(generator=torch.Generator().manual_seed(p.numel())))
    given = tokenizer(TEXTS, return_tensors="pt", padding=True)
    real = given["attention_mask"].bool()
    assert_close(ours(**given)[0][real], others(**given)[0][real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sentence_transformers(kind, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    tokenizer = make_tokenizer(kind)
    model = make(kind, tokenizer, "Model")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = modules.Transformer(str(tmp_path / "model"))
    theirs = library.SentenceTransformer(modules=[words, modules.Pooling(32)], device="cpu").encode(TEXTS)
    words.model = convbert.AutoModel.from_pretrained(tmp_path / "model")
    sentences = library.SentenceTransformer(modules=[words, modules.Pooling(32)], device="cpu")
    np.testing.assert_allclose(sentences.encode(TEXTS), theirs, atol=1e-5, rtol=1e-4)
    loss = library.sentence_transformer.losses.MultipleNegativesRankingLoss(sentences)
    loss([words.preprocess(TEXTS), words.preprocess(TEXTS[::-1])], None).backward()
    assert words.model.encoder.layers[0].mixer.output.weight.grad.abs().sum() > 0
    sentences.save(str(tmp_path / "sentences"))
    loaded = convbert.AutoModel.from_pretrained(tmp_path / "sentences")
    assert loaded.encoder.layers[0].mixer.output.weight.equal(words.model.encoder.layers[0].mixer.output.weight)


@pytest.mark.parametrize("kind", ["convbert", *KINDS])
def test_padding_is_transformers_padding(kind, tmp_path):
    tokenizer = make_tokenizer(kind)
    tokenizer.save_pretrained(tmp_path)
    theirs = getattr(transformers, f"{FAMILIES[kind].prefix}TokenizerFast").from_pretrained(tmp_path)
    rows = [dict(tokenizer(text, return_special_tokens_mask=True)) for text in TEXTS]
    for how in ({}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 40}, {"padding_side": "left"}):
        ours, expected = tokenizer.pad(rows, return_tensors="np", **how), theirs.pad(rows, return_tensors="np", **how)
        assert ours.keys() == expected.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], expected[name], err_msg=f"{how} {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_grown_tokenizer_and_its_model(kind, tmp_path):
    tokenizer = make_tokenizer(kind)
    model = make(kind, tokenizer, "ForMaskedLM").train()
    tokenizer.add_tokens(["zorblax", "quuxing"])
    model.resize_token_embeddings(len(tokenizer))
    given = tokenizer(["the zorblax was quuxing"], return_tensors="pt")
    model(**given, labels=given["input_ids"]).loss.backward()
    assert model.get_input_embeddings().weight.grad[-2:].abs().sum() > 0
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = convbert.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer) and again("the zorblax")["input_ids"] == tokenizer("the zorblax")["input_ids"]
    loaded = convbert.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert_close(loaded(**given).logits, model(**given).logits)
