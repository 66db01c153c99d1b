"""Makes the demo models: `python models/tool train`, then `python models/tool evaluate`; see models/README.md."""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import card
import corpus
import evaluate
import publish
import questions
import tokens
import train
from train import Recipe

MODELS = Path(__file__).resolve().parent.parent
SEEDS = {"qwen2": 1, "llama-bpe": 2}
RECIPES = [
    Recipe("avp-demo-qwen2-s", "qwen2", "qwen2", torch.bfloat16, 96, 3, 3, 3, tied=False, steps=1500, seed=11),
    Recipe("avp-demo-qwen2-m", "qwen2", "qwen2", torch.bfloat16, 128, 3, 4, 4, tied=True, steps=1500, seed=12, peak=1e-3),
    Recipe("avp-demo-llama", "llama", "llama-bpe", torch.float16, 128, 3, 4, 2, tied=False, steps=1500, seed=13, peak=1e-3),
]


def run_corpus(args):
    tokenizer = tokens.train("qwen2", 2048, SEEDS["qwen2"])
    for i in range(args.count):
        d = corpus.dialogue(Random(i), tokens.encoder(tokenizer), tokenizer.get_vocab_size(), 4)
        print(tokenizer.decode(d.ids, skip_special_tokens=False), end="\n----\n")


def run_train(args):
    for recipe in RECIPES:
        if args.models and recipe.name not in args.models:
            continue
        tokenizer = tokens.train(recipe.pre, 2048, SEEDS[recipe.pre])
        path, start = args.out / recipe.name, time.time()
        save = lambda model: publish.folder(path, recipe, model, tokenizer)
        before, runs = None, []
        if args.more:
            # Another seed, or the same dialogues would come again.
            recipe = replace(recipe, steps=args.more, peak=recipe.peak / 2, seed=recipe.seed + 100)
            before = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            runs = json.loads((path / "training.json").read_text())
        model = train.train(recipe, tokenizer, tokens.encoder(tokenizer), args.checkpoint and save, before)
        save(model)
        minutes = round((time.time() - start) / 60, 1)
        publish.write_json(path / "training.json", [*runs, {"steps": recipe.steps, "seed": recipe.seed, "minutes": minutes}])
        publish.validation(path, questions.draw("recall")[-5:])


def run_questions(args):
    questions.write(args.out / "questions")


def run_evaluate(args):
    recall, hints = questions.draw("recall"), questions.draw("hints")
    agents = {r.name: evaluate.Agent(args.out / r.name) for r in RECIPES if (args.out / r.name / "config.json").exists()}
    for name, agent in agents.items():
        table = evaluate.measure(agent, recall, hints[:500])
        publish.write_json(args.out / name / "evaluation.json", table)
        print(name, json.dumps(table, indent=2), flush=True)
        recipe = next(r for r in RECIPES if r.name == name)
        card.write(args.out / name, recipe, agent, table, len(recall), train.BATCH, train.LENGTH)
    if args.transfers:
        table = evaluate.transfers(agents, hints)
        publish.write_json(args.out / "transfers.json", table)
        print(json.dumps(table, indent=2))


def main():
    parser = argparse.ArgumentParser(prog="models/tool", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch; results may differ in the last digits")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the folders go (default: models/)")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("corpus", help="print sample dialogues")
    command.add_argument("--count", type=int, default=3)
    command.set_defaults(run=run_corpus)
    command = commands.add_parser("train", help="train and write the model folders")
    command.add_argument("models", nargs="*", help="only these")
    command.add_argument("--checkpoint", action="store_true", help="write the folder every 250 steps")
    command.add_argument("--more", type=int, metavar="STEPS", help="go on with the folder that is there, at half the rate")
    command.set_defaults(run=run_train)
    commands.add_parser("questions", help="write the question files").set_defaults(run=run_questions)
    command = commands.add_parser("evaluate", help="measure the folders, write evaluation.json and the model cards")
    command.add_argument("--transfers", action="store_true", help="also hints between models, all ordered pairs")
    command.set_defaults(run=run_evaluate)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    args.run(args)


main()
