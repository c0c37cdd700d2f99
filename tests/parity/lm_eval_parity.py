#!/usr/bin/env python3
"""lm-evaluation-harness against the daemon, and against transformers reading the same file.

The tasks of lm_eval_tasks/ are run through the harness' own `hf` model and, over HTTP, through
`local-completions` (token ids and texts, one prompt and several a request) and
`local-chat-completions`. Log-likelihoods agree to 1e-3 where the reference's gap is clear, the
greedy flags and the continuations are the same, and so are the scores.
"""
import json
import os
import pathlib
import tempfile

import common

TASKS = pathlib.Path(__file__).resolve().parent / "lm_eval_tasks"
TOLERANCE = 1e-3


def evaluate(task, model, **more):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    here = os.getcwd()
    os.chdir(TASKS)  # data files are named from there
    try:
        return simple_evaluate(model=model, tasks=[task], task_manager=TaskManager(include_path=str(TASKS)),
                               log_samples=True, bootstrap_iters=0, **more)
    finally:
        os.chdir(here)


def responses(result, task):
    """[(document, what the model answered)] in the order of the documents."""
    samples = sorted(result["samples"][task], key=lambda s: s["doc_id"])
    return [(s["doc"], s["resps"]) for s in samples]


def compare_choices(tally, name, ours, theirs):
    worst, flags, n = 0, 0, 0
    for (doc, mine), (_, reference) in zip(responses(ours, "engramd_choose"), responses(theirs, "engramd_choose")):
        for [(a, greedy)], [(b, greedy_too)] in zip(mine, reference):
            worst = max(worst, abs(float(a) - float(b)))
            flags += str(greedy) != str(greedy_too)
            n += 1
    tally.check(n == 80 and worst <= TOLERANCE, f"{name}: {n} log-likelihoods, largest difference {worst:.1e}")
    tally.check(flags == 0, f"{name}: greedy flags, {flags} of {n} differ")
    scores = [{k: v for k, v in r["results"]["engramd_choose"].items() if k.startswith("acc")} for r in (ours, theirs)]
    tally.check(scores[0] == scores[1] and 0.25 < scores[0]["acc,none"] < 1, f"{name}: scores {scores[0]}")


def compare_texts(tally, name, ours, theirs):
    for (doc, [[mine]]), (_, [[reference]]) in zip(responses(ours, "engramd_continue"), responses(theirs, "engramd_continue")):
        tally.check(mine == reference, f"{name}: {doc['text'][:24]!r} goes on {mine!r}"
                    + ("" if mine == reference else f", not {reference!r}"))


def run(args, client, tokenizer, tally):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer
    reference = HFLM(pretrained=common.load_reference(args.model, args.threads), batch_size=4,
                     tokenizer=AutoTokenizer.from_pretrained(tokenizer))
    choose, go_on = evaluate("engramd_choose", reference), evaluate("engramd_continue", reference)

    name = client.call("GET", "/v1/models")["data"][0]["id"]
    for form, model, options in (
            ("token ids, eight a request", name, {"tokenized_requests": True, "batch_size": 8}),
            ("token ids, one by one", name + "@base", {"tokenized_requests": True, "num_concurrent": 3}),
            ("texts, four a request", name, {"tokenized_requests": False, "batch_size": 4}),
            ("texts, one by one", name + "@main", {"tokenized_requests": False})):
        options = {"model": model, "base_url": client.url + "/v1/completions", "tokenizer_backend": "huggingface",
                   "tokenizer": tokenizer, "max_retries": 1, "timeout": 900, **options}
        compare_choices(tally, form, evaluate("engramd_choose", "local-completions", model_args=options), choose)
        if "request" in form:
            compare_texts(tally, form, evaluate("engramd_continue", "local-completions", model_args=options), go_on)

    options = {"model": name, "base_url": client.url + "/v1/chat/completions", "max_retries": 1, "timeout": 900, "eos_string": "<|im_end|>"}
    chats = evaluate("engramd_continue", "local-chat-completions", model_args=options, apply_chat_template=True)
    talked = evaluate("engramd_continue", reference, apply_chat_template=True)
    compare_texts(tally, "chats", chats, talked)


def main():
    parser = common.arguments(__doc__)
    args = parser.parse_args()
    if not args.model:
        parser.error("--model is needed")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tally = common.Tally()
    with tempfile.TemporaryDirectory(prefix="engramd-lm-eval-") as scratch, common.daemon(args) as client:
        os.environ["HF_DATASETS_CACHE"] = scratch + "/datasets"
        tokenizer = scratch + "/tokenizer"
        common.load_tokenizer(args.model).save_pretrained(tokenizer)
        run(args, client, tokenizer, tally)
    tally.finish()


if __name__ == "__main__":
    main()
