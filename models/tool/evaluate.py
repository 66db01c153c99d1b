"""Greedy answers of a published folder, in every way the demo asks: the weights as they lie on disk, computed in f32."""

from collections import defaultdict

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus import END, START
from questions import correct

MOST_NEW = 12


def chat(*messages, reply=True):
    text = "".join(f"{START}{role}\n{content}{END}\n" for role, content in messages)
    return text + (f"{START}assistant\n" if reply else "")


class Agent:
    """A model and its tokenizer, with latent steps as AVP makes them."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.table = self.model.get_input_embeddings().weight.detach()
        self.head = self.model.get_output_embeddings().weight.detach()
        self.tied = self.model.config.tie_word_embeddings
        if not self.tied:
            gram = self.head.T @ self.head + 1e-5 * torch.eye(self.head.shape[1])
            self.realign = torch.linalg.solve(gram, self.head.T @ self.table)

    def ids(self, texts):
        return torch.tensor([self.tokenizer.encode(t, add_special_tokens=False) for t in texts])

    def embed(self, texts):
        return self.table[self.ids(texts)]

    @torch.no_grad()
    def feed(self, embeds, cache=None):
        """Returns the last position's hidden state (after the final norm) and the cache."""
        out = self.model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        return out.last_hidden_state[:, -1], out.past_key_values

    def latent(self, hidden):
        """The next input embedding that a hidden state stands for."""
        if self.tied:
            return torch.softmax(hidden @ self.head.T, -1) @ self.table
        aligned = hidden @ self.realign
        return aligned * (self.table.norm(dim=1).mean() / aligned.norm(dim=-1, keepdim=True).clamp_min(1e-6))

    def latent_steps(self, hidden, cache, steps):
        """Hidden states after the prompt and after each latent step, and the cache behind the last."""
        states = [hidden]
        for _ in range(steps):
            hidden, cache = self.feed(self.latent(hidden)[:, None], cache)
            states.append(hidden)
        return states, cache

    def generate(self, hidden, cache, most=MOST_NEW):
        rows = []
        for _ in range(most):
            token = (hidden @ self.head.T).argmax(-1)
            rows.append(token)
            hidden, cache = self.feed(self.table[token][:, None], cache)
        texts = self.tokenizer.batch_decode(torch.stack(rows, 1), skip_special_tokens=False)
        return [t.split(END)[0] for t in texts]


def score(agent, rows, answer):
    """Share of rows answered correctly; `answer(rows)` gets rows whose texts have equal token counts."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(len(agent.tokenizer.encode(row[k])) for k in ["notes", "question"])].append(row)
    right = 0
    for group in groups.values():
        right += sum(correct(reply, row) for reply, row in zip(answer(group), group))
    return right / len(rows)


def prompt(agent, text_of):
    return lambda rows: agent.generate(*agent.feed(agent.embed([text_of(r) for r in rows])))


def handover(agent, latent=0, cut=0):
    """Notes are prefilled, some steps are made, and the question follows in the same cache."""

    def answer(rows):
        hidden, cache = agent.feed(agent.embed([chat(("user", r["notes"])) for r in rows]))
        _, cache = agent.latent_steps(hidden, cache, latent)
        for _ in range(cut):
            token = (hidden @ agent.head.T).argmax(-1)
            hidden, cache = agent.feed(agent.table[token][:, None], cache)
        return agent.generate(*agent.feed(agent.embed([chat(("user", r["question"])) for r in rows]), cache))

    return answer


def hinted(agent, hint):
    """The question without notes after hint embeddings `[rows, positions, hidden]`."""

    def answer(rows):
        question = agent.embed([chat(("user", r["question"])) for r in rows])
        return agent.generate(*agent.feed(torch.cat([hint(rows), question], 1)))

    return answer


def projected(source, receiver, steps):
    """Hints from another model: its next-token distributions over the shared vocabulary mix the receiver's embeddings."""
    mine, theirs = source.tokenizer.get_vocab(), receiver.tokenizer.get_vocab()
    shared = sorted(mine.keys() & theirs.keys())
    from_ids = torch.tensor([mine[t] for t in shared])
    table = receiver.table[torch.tensor([theirs[t] for t in shared])]

    def hint(rows):
        texts = [chat(("user", f"{r['notes']}\n{r['question']}")) for r in rows]
        states, _ = source.latent_steps(*source.feed(source.embed(texts)), steps)
        return torch.stack([torch.softmax((h @ source.head.T)[:, from_ids], -1) @ table for h in states], 1)

    return hint


def sums(agent):
    """Share of the hundred sums of two digits that are answered exactly."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    replies = prompt(agent, lambda p: chat(("user", f"What is {p[0]} + {p[1]}?")))(pairs)
    return sum(reply == f"{a} + {b} = {a + b}." for reply, (a, b) in zip(replies, pairs)) / len(pairs)


def measure(agent, recall, hints):
    """The model card's table: name -> share correct."""
    direct = lambda r: chat(("user", f"{r['notes']}\n{r['question']}"))
    turns = lambda r: chat(("user", r["notes"]), ("assistant", "Understood."), ("user", r["question"]))
    alone = lambda r: chat(("user", r["question"]))
    spoken = lambda times: lambda rows: agent.embed([r["answer"] for r in rows]).repeat(1, times, 1)
    return {
        "notes and question in one message": score(agent, recall, prompt(agent, direct)),
        "notes and question in separate turns": score(agent, recall, prompt(agent, turns)),
        "handover of the KV cache": score(agent, recall, handover(agent)),
        "handover after 2 latent steps": score(agent, recall, handover(agent, latent=2)),
        "handover after 8 latent steps": score(agent, recall, handover(agent, latent=8)),
        "handover after 2 generated tokens": score(agent, recall, handover(agent, cut=2)),
        "handover after 8 generated tokens": score(agent, recall, handover(agent, cut=8)),
        "question without notes": score(agent, recall, prompt(agent, alone)),
        "one word, notes and question": score(agent, hints, prompt(agent, direct)),
        "one word, no notes": score(agent, hints, prompt(agent, alone)),
        "one word, no notes, hint of 1 token": score(agent, hints, hinted(agent, spoken(1))),
        "one word, no notes, hint of 8 tokens": score(agent, hints, hinted(agent, spoken(8))),
        "sums of two digits (all 100)": sums(agent),
    }


def transfers(agents, hints, steps=(0, 3, 7)):
    """All ordered pairs: the source's own one-word accuracy, and the receiver's after 1, 4 and 8 hint positions."""
    direct = lambda r: chat(("user", f"{r['notes']}\n{r['question']}"))
    out = {}
    for a, source in agents.items():
        own = score(source, hints, prompt(source, direct))
        for b, receiver in agents.items():
            if a != b:
                after = [score(receiver, hints, hinted(receiver, projected(source, receiver, n))) for n in steps]
                out[f"{a} -> {b}"] = [own, *after]
    return out
