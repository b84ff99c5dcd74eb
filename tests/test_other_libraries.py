"""Our models in transformers' Trainer, in PEFT and in sentence-transformers: the real libraries, nothing replaced."""

import warnings

import pytest
import torch
from torch.testing import assert_close

import convbert
from convbert import ConvBertConfig, ConvBertForSequenceClassification, ConvBertModel, ConvBertTokenizerFast, pipeline

transformers = pytest.importorskip("transformers", reason="pip install transformers")
TEXTS = ["a good film", "an awful, far too long film that nobody needs", "nice", "bad"]
SMALL = dict(hidden_size=16, embedding_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
HEADS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "Model": "FEATURE_EXTRACTION",
    "ForMaskedLM": None,
    "ForMultipleChoice": None,
}


def small(head="ForSequenceClassification", **changes):
    torch.manual_seed(0)
    config = ConvBertConfig(vocab_size=8192, **{**SMALL, "hidden_dropout_prob": 0.0, **changes})
    return getattr(convbert, f"ConvBert{head}")(config)


def trainer(model, tokenizer, folder, rows, collator=None, **arguments):
    args = dict(num_train_epochs=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(str(folder), **{**args, **arguments}),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator or transformers.DataCollatorWithPadding(tokenizer),
    )


# -- transformers' Trainer


def test_trainer_trains_evaluates_goes_on_and_saves(tokenizer, tmp_path):
    rows = [dict(tokenizer(text), label=i % 2) for i, text in enumerate(TEXTS)]
    model = small(num_labels=2)
    before = model.encoder.layers[0].mixer.output.weight.clone()
    run = trainer(model, tokenizer, tmp_path, rows, eval_strategy="epoch", save_strategy="epoch", num_train_epochs=2)
    run.train()
    assert not model.encoder.layers[0].mixer.output.weight.equal(before) and run.evaluate()["eval_loss"] > 0
    again = trainer(small(num_labels=2), tokenizer, tmp_path, rows, save_strategy="epoch", num_train_epochs=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (name, ours), theirs in zip(model.named_parameters(), again.model.parameters(), strict=True):
        assert_close(ours, theirs, msg=name)
    run.save_model(tmp_path / "saved")
    with pytest.warns(UserWarning, match="has no config.json. The weights say .*hidden_size"):
        loaded = ConvBertForSequenceClassification.from_pretrained(tmp_path / "saved")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert_close(loaded(**batch).logits, model.eval()(**batch).logits)
    model.config.save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = pipeline("text-classification", tmp_path / "saved", top_k=None)(TEXTS)
    scores = torch.tensor([[row["score"] for row in sorted(each, key=lambda row: row["label"])] for each in answers])
    assert_close(scores, model(**batch).logits.softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
def test_collators_of_transformers(tokenizer, tmp_path, head):
    rows = [dict(tokenizer(text)) for text in TEXTS]
    if head == "ForTokenClassification":
        rows = [{**row, "labels": [i % 2 for i in row["input_ids"]]} for row in rows]
        collator = transformers.DataCollatorForTokenClassification(tokenizer)
    else:
        collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
    run = trainer(small(head), tokenizer, tmp_path, rows, collator, save_strategy="no")
    assert run.train().training_loss > 0


# -- PEFT


@pytest.mark.parametrize("head", HEADS)
def test_lora_on_query_and_value(head, tmp_path):
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = small(head).eval()
    ids = torch.randint(5, 99, (2, 3, 6) if head == "ForMultipleChoice" else (2, 6))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given["attention_mask"][1, ..., 4:] = 0
    before = model(**given)[0]
    settings = peft.LoraConfig(task_type=HEADS[head], target_modules=["query", "value"], r=2)
    adapted = peft.get_peft_model(model, settings).eval()
    assert_close(adapted(**given)[0], before)  # LoRA begins with nothing
    adapted.train()(**given)[0].square().sum().backward()
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is not None]
    assert sum(".query.lora_B" in name for name in trained) == sum(".value.lora_B" in name for name in trained) == 2
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    after = adapted.eval()(**given)[0]
    assert (after - before).abs().max() > 1e-4
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(small(head).eval(), tmp_path).eval()
    assert_close(again(**given)[0], after)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)
    assert_close(merged(**given)[0], after, atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(type(model).from_pretrained(tmp_path / "merged")(**given)[0], after, atol=1e-5, rtol=1e-4)


# -- sentence-transformers


def test_sentence_transformers_encodes_trains_and_saves(tokenizer, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    model = small("Model").eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = modules.Transformer(str(tmp_path / "model"))
    words.model = ConvBertModel.from_pretrained(tmp_path / "model")
    sentences = library.SentenceTransformer(modules=[words, modules.Pooling(16)], device="cpu")
    ours = pipeline("feature-extraction", tmp_path / "model", pooling="mean", return_tensors=True)
    assert_close(torch.tensor(sentences.encode(TEXTS)), torch.stack(list(ours(TEXTS))), atol=1e-5, rtol=1e-4)
    loss = library.sentence_transformer.losses.MultipleNegativesRankingLoss(sentences)
    pairs = [words.preprocess(TEXTS), words.preprocess(TEXTS[::-1])]
    loss(pairs, None).backward()
    assert words.model.encoder.layers[0].mixer.output.weight.grad.abs().sum() > 0
    sentences.save(str(tmp_path / "sentences"))
    loaded = ConvBertModel.from_pretrained(tmp_path / "sentences")
    assert loaded.encoder.layers[0].mixer.output.weight.equal(words.model.encoder.layers[0].mixer.output.weight)


def test_fine_tuning_needs_no_pad_token(tokenizer, tmp_path):
    from convbert.training.finetuning import finetune

    bare = ConvBertTokenizerFast(vocab=tokenizer.get_vocab(), pad_token=None)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS * 8, ["up", "down"] * 16, strict=True)]
    result = finetune(small(), rows, "text-classification", tmp_path / "run", tokenizer=bare, epochs=1)
    assert "accuracy" in result.scores


def kinds(peft):
    two = {"target_modules": ["query", "value"]}
    return {
        "lora": peft.LoraConfig(r=2, **two),
        "dora": peft.LoraConfig(r=2, use_dora=True, **two),
        "pissa": peft.LoraConfig(r=2, init_lora_weights="pissa", **two),
        "all-linear": peft.LoraConfig(r=2, target_modules="all-linear"),
        "others": peft.LoraConfig(r=2, target_modules=["key", "conv_out_layer"], bias="all"),
        "loha": peft.LoHaConfig(r=2, **two),
        "oft": peft.OFTConfig(oft_block_size=4, **two),
        "ia3": peft.IA3Config(feedforward_modules=[], **two),
    }


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora", "pissa", "all-linear", "others", "loha", "oft", "ia3"])
def test_adapters_of_every_kind_are_merged(kind, safe):
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = small("Model").eval()
    ids = torch.randint(5, 99, (2, 6), generator=torch.Generator().manual_seed(1))
    before = model(ids)[0].detach()
    adapted = peft.get_peft_model(model, kinds(peft)[kind]).eval()
    assert_close(adapted(ids)[0], before, atol=1e-5, rtol=1e-4)  # it begins with nothing
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    after = adapted(ids)[0].detach()
    assert (after - before).abs().max() > 1e-3
    assert_close(adapted.merge_and_unload(safe_merge=safe)(ids)[0], after, atol=1e-4, rtol=1e-3)


def test_trainer_with_less_memory(tokenizer, tmp_path):
    rows = [dict(tokenizer(text), label=i % 2) for i, text in enumerate(TEXTS)]
    plain, frugal = (
        trainer(small(), tokenizer, tmp_path, rows, save_strategy="no", gradient_checkpointing=on)
        for on in (False, True)
    )
    assert plain.train().training_loss == pytest.approx(frugal.train().training_loss, abs=1e-6)
    assert frugal.model.encoder.gradient_checkpointing
