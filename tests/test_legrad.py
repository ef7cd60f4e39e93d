"""LeGrad: against blocks written out with their attention as a variable, attention of every spelling, torch-cam's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reference
from capture_models import CLASSES, Net, unchanged
from fusedcam.torch import LeGrad
from rare_models import KINDS, Block, ViT, close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")

RAW = {"size": None, "normalize": None}
ROWS = [[1, 4], [0, 2]]
CONTEXTS = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def attention_of(block, x):
    """softmax(q k^T scale + mask), [N, heads, T, T]."""
    q, k, _ = block.projected(block.ln_1(x))
    scale = 0.3 if block.kind == "grouped" else q.shape[-1] ** -0.5
    scores = torch.einsum("nhid,nhjd->nhij", q, k.expand_as(q)) * scale
    mask = block.mask(scores.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1)


def behind(block, x, attention):
    """What the block returns for tokens x, if it attended so."""
    _, _, v = block.projected(block.ln_1(x))
    heads = torch.einsum("nhij,nhjd->nhid", attention, v.expand(-1, attention.shape[1], -1, -1))
    x = x + block.joined(heads)
    return x + block.mlp(block.ln_2(x))


def by_blocks(model, x, chosen, head):
    """The paper's: each block's score by its own attention. chosen are indices of blocks; [N, K, 4, 4]."""
    maps = []
    with torch.enable_grad():
        tokens = model.embedded(x)
        for index, block in enumerate(model.blocks):
            if index in chosen:
                attention = attention_of(block, tokens).detach().requires_grad_()
                columns = head(behind(block, tokens.detach(), attention)).gather(1, torch.tensor(ROWS)).unbind(1)
                rows = [torch.autograd.grad(column.sum(), attention, retain_graph=True)[0] for column in columns]
                maps.append([np.maximum(row.numpy(), 0).mean((1, 2))[:, 1:] for row in rows])
            tokens = behind(block, tokens, attention_of(block, tokens))
    return np.array(maps).mean(0).transpose(1, 0, 2).reshape(len(x), -1, 4, 4)


def by_model(model, x, chosen):
    """The model's own score by the attention of the blocks."""
    total = []
    for k in range(2):
        with torch.enable_grad():
            tokens, maps = model.embedded(x), []
            for index, block in enumerate(model.blocks):
                attention = attention_of(block, tokens)
                if index in chosen:
                    maps.append(attention)
                tokens = behind(block, tokens, attention)
            score = model.head(model.norm(tokens)[:, 0]).gather(1, torch.tensor(ROWS))[:, k].sum()
            found = torch.autograd.grad(score, maps)
        total.append(np.mean([np.maximum(one.numpy(), 0).mean((1, 2))[:, 1:] for one in found], 0))
    return np.array(total).transpose(1, 0, 2).reshape(len(x), -1, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind):
    model, x = ViT(kind).eval(), torch.randn(2, 3, 32, 32)
    paper = LeGrad(model, list(model.blocks[1:]), head=model.pooled)
    every, last = LeGrad(model), LeGrad(model, ["blocks.2"])
    for context in CONTEXTS:
        with context(), unchanged(model):
            heat = paper(x, targets=ROWS, **RAW)
            one = paper(x, targets=[row[1] for row in ROWS], **RAW)
            own = every(x, targets=ROWS, **RAW)
            end = last(x, targets=ROWS, **RAW)
        close(heat, by_blocks(model, x, (1, 2), model.pooled), 1e-12)
        close(one, heat[:, 1], 1e-12)
        close(own, by_model(model, x, (0, 1, 2)), 1e-12)
        close(end, by_model(model, x, (2,)), 1e-12)
        for explain in (paper, every, last):
            close(explain.output, model(x), 1e-12)
    assert heat.max() > 0
    assert paper.plan.layer == "blocks.1, blocks.2"
    close(paper(x, targets=ROWS), reference.normalize(reference.bilinear(heat.numpy(), (32, 32)), "minmax"))
    close(paper(x[:1], targets=1, **RAW), heat[:1, 0], 1e-12)  # an image is explained as in a batch
    assert all(parameter.grad is None for parameter in model.parameters())


def test_first_choice_and_callables():
    """Without targets every block is asked for what the model itself chooses, not for its own first choice."""
    model, x = ViT().eval(), torch.randn(3, 3, 32, 32)
    explain = LeGrad(model, list(model.blocks), head=model.pooled)
    first = model(x).argmax(1)
    close(explain(x, **RAW), explain(x, targets=first, **RAW), 1e-12)
    score = lambda output: output.gather(1, first[:, None])[:, 0]  # noqa: E731
    close(explain(x, targets=score, **RAW), explain(x, targets=first, **RAW), 1e-12)


def test_by_hand():
    """Two tokens, one head, no projections: s = sum over queries of A v, so that ds/dA_ij = w v_j."""

    class Bare(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Bare()

        def forward(self, x):
            return self.block(x).sum(1)

    x = torch.tensor([[[1.0, -2.0], [3.0, 0.5], [2.0, -1.0]]])
    explain = LeGrad(Model().eval(), ["block"], prefix=1, grid=(1, 2))
    close(explain(x, targets=[[0, 1]], **RAW), torch.tensor([[[[3.0, 2.0]], [[0.5, 0.0]]]]))
    close(LeGrad(explain.model, prefix=0, grid=(3, 1))(x, targets=0, **RAW), torch.tensor([[[1.0], [3.0], [2.0]]]))


@pytest.mark.parametrize("weights", ["none", "averaged", "each"])
def test_the_model_gets_what_it_asked_for(weights):
    """`nn.MultiheadAttention` is asked for weights in secret; a model that uses them sees them as it would have."""

    class Model(ViT):
        def forward(self, x):
            tokens = self.embedded(x)
            for block in self.blocks:
                y = block.ln_1(tokens)
                options = {"need_weights": weights != "none", "average_attn_weights": weights == "averaged"}
                y, seen = block.self_attention(y, y, y, **options)
                tokens = tokens + y
                if seen is not None:
                    tokens = tokens * (1 + seen.reshape(len(x), -1)[:, :1, None])
            return self.head(tokens[:, 0])

    model, x = Model().eval(), torch.randn(2, 3, 32, 32)
    explain = LeGrad(model)
    with unchanged(model):
        explain(x)
    with torch.no_grad():
        close(explain.output, model(x), 1e-12)


def test_encoder_layer():
    """PyTorch's own encoder layer, which runs as one native call where nobody looks."""
    model, x = ViT().eval(), torch.randn(2, 3, 32, 32)
    model.blocks = nn.ModuleList(
        nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, norm_first=True, activation="gelu") for _ in range(2)
    ).eval()
    explain = LeGrad(model)
    with unchanged(model):
        heat = explain(x, targets=ROWS)
    close(explain.output, model(x), 1e-12)
    twin = ViT(depth=2).eval()
    for name in ("patch", "token", "place", "norm", "head"):
        setattr(twin, name, getattr(model, name))
    for ours, theirs in zip(twin.blocks, model.blocks, strict=True):
        ours.self_attention, ours.ln_1, ours.ln_2 = theirs.self_attn, theirs.norm1, theirs.norm2
        ours.mlp = nn.Sequential(theirs.linear1, nn.GELU(), theirs.linear2)
    close(heat, LeGrad(twin.eval())(x, targets=ROWS))
    first_post = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
    model.blocks = nn.ModuleList([first_post])
    assert LeGrad(model.eval(), [first_post], head=model.pooled)(x).shape == (2, 32, 32)


def test_torchcam():
    from torchcam import methods

    model, x = ViT().eval(), torch.randn(2, 3, 32, 32)
    blocks = list(model.blocks[1:])
    with methods.LeGrad(model, blocks, score_projection=model.pooled) as extract:
        scores = model(x)
        expected = extract([2, 0], scores, normalized=False)[0]
    close(LeGrad(model, blocks, head=model.pooled)(x, targets=[2, 0], **RAW), expected, 1e-12)


def test_a_model_that_writes_to_tokens_and_attention():
    class Ending(Block):
        def forward(self, x):
            return super().forward(x).tanh()  # whose backward needs the tokens as they were

        def attend(self, q, k, v):
            attention = (q @ k.transpose(-2, -1)).softmax(-1)
            return attention.mul_(0.5) @ v

    class Writing(ViT):
        def forward(self, x):
            x = self.embedded(x)
            for block in self.blocks:
                x = block(x).mul_(2)
            return self.head(self.norm(x)[:, 0])

    model, x = Writing().eval(), torch.randn(2, 3, 32, 32)
    model.blocks = nn.ModuleList(Ending(12, 3, "written") for _ in range(2)).eval()
    with unchanged(model):
        explain = LeGrad(model, list(model.blocks), head=model.pooled)
        assert torch.isfinite(explain(x)).all()
    close(explain.output, model(x), 1e-12)


def test_records_from_the_first_attention_on():
    model, x = ViT("fused").eval(), torch.randn(2, 3, 32, 32)
    recorded = {}
    for index, block in enumerate(model.blocks):
        block.ln_1.register_forward_hook(
            lambda module, inputs, output, index=index: recorded.update({index: output.requires_grad})
        )
    LeGrad(model, ["blocks.1", "blocks.2"])(x)
    assert recorded == {0: False, 1: False, 2: True}
    LeGrad(model, ["blocks.1", "blocks.2"], head=model.pooled)(x)
    assert not any(recorded.values()), "a block's own score begins at its own attention"


def test_grid_and_prefix():
    model, x = ViT(tokens=13).eval(), torch.randn(2, 3, 16, 48)
    heat = LeGrad(model, grid=(2, 6))(x, targets=1, **RAW)
    assert heat.shape == (2, 2, 6)
    close(LeGrad(model, prefix=4)(x, targets=1, **RAW).flatten(1), heat.flatten(1)[:, 3:], 1e-12)
    for options, message in (
        ({}, "grid is None, for a square; the model has 13 tokens, of which 1 are the prefix"),
        ({"grid": (3, 3)}, r"grid is \(3, 3\); the model has 13 tokens"),
        ({"prefix": 13}, "the model has 13 tokens, of which 13 are the prefix"),
    ):
        with pytest.raises(ValueError, match=message):
            LeGrad(model, **options)(x)


def test_refusals():
    model, x = ViT().eval(), torch.randn(2, 3, 32, 32)
    for call, error, message in (
        (lambda: LeGrad(model, "blocks.1"), TypeError, "blocks is of type str"),
        (lambda: LeGrad(model, model.blocks[0]), TypeError, "blocks is of type Block"),
        (lambda: LeGrad(model, []), ValueError, "blocks is an empty list"),
        (lambda: LeGrad(model, ["blocks.7"]), ValueError, "the model has no module 'blocks.7'"),
        (lambda: LeGrad(model, head=model.pooled), ValueError, "head needs blocks"),
        (lambda: LeGrad(model, ["blocks.1"], head=3), TypeError, "head is of type int"),
        (lambda: LeGrad(model, prefix=-1), ValueError, "prefix is -1"),
        (lambda: LeGrad(model, prefix=1.0), TypeError, "prefix is 1.0"),
        (lambda: LeGrad(model, grid=(4, 0)), ValueError, r"grid is \(4, 0\)"),
        (lambda: LeGrad(model)(x, targets=CLASSES), ValueError, f"class {CLASSES} is out of range"),
        (
            lambda: LeGrad(model)(x, targets=lambda output: torch.ones(2)),
            ValueError,
            "does not depend on the attention",
        ),
        (lambda: LeGrad(Net().eval())(x), RuntimeError, "self-attention over all tokens was seen nowhere in the model"),
        (lambda: LeGrad(model, ["blocks.1", "head"])(x), RuntimeError, "seen in 1 of 2 blocks"),
    ):
        with pytest.raises(error, match=message):
            call()

    class Windows(ViT):
        def embedded(self, x):
            return super().embedded(x)[:, 1:].reshape(-1, 4, 12)

        def forward(self, x):
            tokens = self.embedded(x)
            for block in self.blocks:
                tokens = block(tokens)
            return self.head(tokens.reshape(len(x), -1, 12).mean(1))

    with pytest.raises(RuntimeError, match="attends within windows"):
        LeGrad(Windows("fused").eval())(x)
