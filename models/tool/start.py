"""Where training starts: embeddings that stand out, and first layers that already look where recall has to look.

From a random start these small models stay for thousands of steps on a plateau, until heads that look one token back
and heads that match a key have found each other. So layer 0 starts with heads that attend to a fixed distance (one
token back, which marks a value with its key; and to the question's key from where the answer begins), and layer 1 with
heads that match a token with such a mark and copy what is there. Everything is trained afterwards.
"""

import torch

KEY_DISTANCE = 7  # from the last token of a prompt back to the key of its question
SIZE = 0.2  # standard deviation of the embeddings
SHARPNESS = 4.5  # attention score of a head at its own distance
MARK = 1.2  # what layer 0 adds, against an embedding's size
MATCH = 0.28  # weights that compare a token with a mark
COPY = 0.3  # weights that copy what was matched


@torch.no_grad()
def initialise(model, tokenizer):
    c = model.config
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight /= (2 * c.num_hidden_layers) ** 0.5
    table = model.get_input_embeddings().weight
    embeddings(table, tokenizer)
    if not c.tie_word_embeddings:
        model.lm_head.weight.copy_(table)
    model.model.norm.weight.fill_(0.4)  # or every token would at first be sure to follow itself
    mark = look_back(model.model.layers[0].self_attn, c, table)
    match(model.model.layers[1].self_attn, c, mark)


def embeddings(table, tokenizer):
    """A word with and without its leading space start half alike; dimension 0 is constant, for heads to hold on to."""
    torch.nn.init.normal_(table, std=SIZE)
    vocab = tokenizer.get_vocab()
    for token, i in vocab.items():
        plain = vocab.get(token.removeprefix("Ġ"))
        if plain is not None and plain != i and len(token) > 2:
            table[i] = 0.7 * table[i] + 0.7 * table[plain]
    table[:, 0] = 0.4 * SIZE * table.shape[1] ** 0.5


def orthogonal(rows, columns):
    return torch.nn.init.orthogonal_(torch.empty(rows, columns))


def look_back(attention, c, table):
    """Layer 0 by position alone: all heads but the last one token back, the last one `KEY_DISTANCE` back."""
    heads, groups = c.num_attention_heads, c.num_attention_heads // c.num_key_value_heads
    hd = c.hidden_size // heads
    constant = (table[:, 0] / table.pow(2).mean(-1).sqrt()).mean()
    amplitude = (SHARPNESS * hd**0.5) ** 0.5 / constant
    theta = 10000.0 ** (-torch.arange(0, hd, 2) / hd)
    ones = torch.cat([torch.ones(hd // 2), torch.zeros(hd // 2)])
    value = orthogonal(hd * c.num_key_value_heads, c.hidden_size)
    attention.v_proj.weight.copy_(value)
    out = orthogonal(c.hidden_size, c.hidden_size)
    size = table.std()
    mark = torch.zeros(c.hidden_size, c.hidden_size)
    for h in range(heads):
        rows = slice(h * hd, (h + 1) * hd)
        last = h == heads - 1
        distance = KEY_DISTANCE if last else 1
        turned = torch.cat([torch.cos(distance * theta), -torch.sin(distance * theta)])
        attention.q_proj.weight[rows, 0] = amplitude * turned
        v = value[(h // groups) * hd : (h // groups + 1) * hd]
        o = v.T if last else out[:, rows]
        attention.o_proj.weight[:, rows] = MARK * size * o
        if not last:
            mark += o @ v
    for g in range(c.num_key_value_heads):
        attention.k_proj.weight[g * hd : (g + 1) * hd, 0] = amplitude * ones
    return mark


def match(attention, c, mark):
    """Layer 1, half of the KV heads: a query's token against a key's mark, in the slow half of RoPE; copies the token."""
    groups = c.num_attention_heads // c.num_key_value_heads
    hd = c.hidden_size // c.num_attention_heads
    slow = (torch.arange(hd) % (hd // 2) >= 7).float().unsqueeze(1)
    for g in range((c.num_key_value_heads + 1) // 2):
        content = torch.randn(hd, c.hidden_size) * MATCH * slow
        content[:, 0] = 0.0
        keys = content @ mark.T
        keys[:, 0] = 0.0
        value = orthogonal(hd, c.hidden_size)
        attention.k_proj.weight[g * hd : (g + 1) * hd] = keys
        attention.v_proj.weight[g * hd : (g + 1) * hd] = value
        for h in range(g * groups, (g + 1) * groups):
            attention.q_proj.weight[h * hd : (h + 1) * hd] = content
            attention.o_proj.weight[:, h * hd : (h + 1) * hd] = COPY * value.T
