"""Bugs planted into the CUDA kernels: what is wrong, the file, old text and new; test_emulator.py catches each."""

BUGS = {
    "no barrier before the weights are read": (
        "fold.cuh",
        "first, count, weights);\n        block_barrier();",
        "first, count, weights);",
    ),
    "no barrier before other blocks' sums are read": (
        "cam.cuh",
        "space.weights, space.columns);\n    cluster_barrier();",
        "space.weights, space.columns);",
    ),
    "a block's barrier in place of the cluster's": (
        "cam.cuh",
        "in_block(space.map, other)[pixel] = value;\n    }\n    cluster_barrier();",
        "in_block(space.map, other)[pixel] = value;\n    }\n    block_barrier();",
    ),
    "no barrier before the small map is read": (
        "draw.cuh",
        "    block_barrier();\n    const auto pixel",
        "    const auto pixel",
    ),
    "no barrier before the warps' extremes are read": (
        "map.cuh",
        "scratch[thread() / warp] = range;\n    block_barrier();",
        "scratch[thread() / warp] = range;",
    ),
    "a warp's extremes left out": ("map.cuh", "i < threads / warp; ++i", "i < threads / warp - 1; ++i"),
    "a short last part is read whole": (
        "fold.cuh",
        "count = rest < whole ? rest : whole;",
        "count = rest < 0 ? rest : whole;",
    ),
    "alpha is the sum, not the mean": ("fold.cuh", "sums[j].total() / static_cast<T>(plan.pixels)", "sums[j].total()"),
    "a channel beyond the last is written": ("fold.cuh", "lane == 0 && c + j < count", "lane == 0"),
    "another class's gradients": ("fold.cuh", "image, map - image * plan.classes)", "image, 0)"),
    "rows and columns swapped": ("fold.cuh", "row * source.row + (pixel", "row * source.column + (pixel"),
    "quads read as one at any stride": ("fold.cuh", "if (quad > 1 && vector_)", "if (quad > 1)"),
    "the groups' sums are not all added": ("fold.cuh", "group < plan.groups; ++group)", "group < 1; ++group)"),
    "a part's share of the rows is skipped": ("map.cuh", "(block < rows % blocks ? block : rows % blocks)", "0"),
    "four pixels written where three are left": ("map.cuh", "if (j < count) to[j * column]", "to[j * column]"),
    "infinity passes for finite": ("cam.cuh", "!(score - score == T(0))", "score != score"),
    "the palette overruns its piece": (
        "draw.cuh",
        "carve.take<uint8_t>(palette_bytes);",
        "carve.take<uint8_t>(palette_bytes - 32);",
    ),
    "taps overrun their table": (
        "map.cuh",
        "space.take<Entry>(frame.out_width)",
        "space.take<Entry>(frame.out_width - 4)",
    ),
    "the workspace is one part too small": (
        "cam.cu",
        "columns_ = pieces.take<T>(together_ * sums);",
        "columns_ = pieces.take<T>(together_ * sums - plan_.columns);",
    ),
    "clusters by the device alone": ("launch.cu", "if (version < 90) return 0;", ""),
}
