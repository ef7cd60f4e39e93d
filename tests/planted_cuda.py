"""Bugs planted into the CUDA kernels: what is wrong, the file, old text and new; test_emulator.py catches each."""

BUGS = {
    # Barriers and waits.
    "no barrier before the weights are read": (
        "fold.cuh",
        "tiles, space.weights);\n            block_barrier();",
        "tiles, space.weights);",
    ),
    "no barrier before a large map's weights are read": (
        "fold.cuh",
        "gradients, count, weights);\n        block_barrier();",
        "gradients, count, weights);",
    ),
    "a tile is copied over while it is read": (
        "stage.cuh",
        "wait_copies<stages - 2>();\n        block_barrier();\n        copy_next();",
        "wait_copies<stages - 2>();\n        copy_next();\n        block_barrier();",
    ),
    "one copy too few is waited for": ("stage.cuh", "wait_copies<stages - 2>();", "wait_copies<stages - 1>();"),
    "no barrier between the groups' steps": (
        "fold.cuh",
        "+= columns[half * pixels + i];\n        block_barrier();",
        "+= columns[half * pixels + i];",
    ),
    "no barrier before the groups are added": (
        "fold.cuh",
        "block_barrier();\n            add_groups(",
        "add_groups(",
    ),
    "other blocks' sums are not waited for": (
        "cam.cuh",
        "    cluster_arrive();\n"
        "    Carve carve(shared_memory());\n"
        "    const int rank = cluster_rank(), size = cluster_size();\n"
        "    ClusterSpace<T> space(carve, plan, finish, size);\n"
        "    const Frame& frame = finish.frame;\n"
        "    const int64_t map = first_map + block_x() / size, begin = share(frame.out_height, rank, size),\n"
        "                  end = share(frame.out_height, rank + 1, size);\n"
        "    space.canvas.fill(begin, end);\n"
        "    cluster_wait();\n",
        "    Carve carve(shared_memory());\n"
        "    const int rank = cluster_rank(), size = cluster_size();\n"
        "    ClusterSpace<T> space(carve, plan, finish, size);\n"
        "    const Frame& frame = finish.frame;\n"
        "    const int64_t map = first_map + block_x() / size, begin = share(frame.out_height, rank, size),\n"
        "                  end = share(frame.out_height, rank + 1, size);\n"
        "    space.canvas.fill(begin, end);\n"
        "    block_barrier();\n",
    ),
    "a block ends while others read its sums": (
        "cam.cuh",
        "space.map[pixel] = combined(pixel);\n        block_barrier();\n        cluster_arrive();",
        "space.map[pixel] = combined(pixel);\n        cluster_arrive();\n        cluster_wait();\n        return;",
    ),
    "a block's barrier in place of the cluster's": (
        "cam.cuh",
        "in_block(space.map, other)[pixel] = value;\n        }\n        cluster_barrier();",
        "in_block(space.map, other)[pixel] = value;\n        }\n        block_barrier();",
    ),
    "the shared extremes are not waited for": (
        "cam.cuh",
        "[rank] = own;\n            cluster_barrier();",
        "[rank] = own;\n            block_barrier();",
    ),
    "no barrier before the small map is read": (
        "draw.cuh",
        "    block_barrier();\n    const auto pixel",
        "    const auto pixel",
    ),
    "no barrier before the widened rows are read": (
        "draw.cuh",
        "range_tiles + i]);\n        block_barrier();",
        "range_tiles + i]);",
    ),
    "no barrier before the warps' extremes are read": (
        "map.cuh",
        "scratch[thread() / warp] = range;\n    block_barrier();",
        "scratch[thread() / warp] = range;",
    ),
    # Numbers.
    "a warp's extremes left out": ("map.cuh", "i < threads / warp; ++i", "i < threads / warp - 1; ++i"),
    "the last block's extremes left out": (
        "cam.cuh",
        "other < size; ++other) range.add",
        "other < size - 1; ++other) range.add",
    ),
    "a short last part is read whole": (
        "fold.cuh",
        "static_cast<int>(rest < whole ? rest : whole)",
        "static_cast<int>(rest < 0 ? rest : whole)",
    ),
    "tiles reach over the end of their block": (
        "stage.cuh",
        "rest < plan_.tile ? rest : plan_.tile",
        "rest < 0 ? rest : plan_.tile",
    ),
    "the end of a tile is not copied": (
        "stage.cuh",
        "i = whole * each + thread(); i < count",
        "i = whole * each + thread(); i < 0",
    ),
    "a group begins anew in every tile": ("fold.cuh", "(group - tiles.before() % groups + groups) % groups", "group"),
    "alpha is the sum, not the mean": (
        "weigh.cuh",
        "return sum / static_cast<T>(plan.pixels);",
        "return sum;",
    ),
    "another class's gradients": ("fold.cuh", "image, map - image * plan.classes)", "image, 0)"),
    "rows and columns swapped on the way in": (
        "stage.cuh",
        "row_offset(source, row) + column * source.column",
        "row_offset(source, column) + row * source.column",
    ),
    "rows and columns of a large map swapped": (
        "weigh.cuh",
        "row * source.row + column * source.column",
        "row * source.column + column * source.row",
    ),
    "quads of large maps read as one at any stride": ("weigh.cuh", "if (quad > 1 && vector_)", "if (quad > 1)"),
    "copied 16 bytes at a time at any stride": ("plan.hpp", "aligned(16) && tile_size % 16 == 0)", "true)"),
    "the middle of an odd number of groups is lost": ("fold.cuh", "half = (groups + 1) / 2;", "half = groups / 2;"),
    "a part's share of the rows is skipped": ("map.cuh", "(block < rows % blocks ? block : rows % blocks)", "0"),
    "four pixels written where three are left": ("map.cuh", "if (j < count) to[j * column]", "to[j * column]"),
    "infinity passes for finite": ("cam.cuh", "!(score - score == T(0))", "score != score"),
    "the image's colours in the wrong order": (
        "draw.cuh",
        "words[i / 4] >> 8 * (i % 4)",
        "words[i / 4] >> 8 * (3 - i % 4)",
    ),
    "the noise of the first map": ("mask.cuh", "noise.offset(index, 2) : 0", "noise.offset(0, 2) : 0"),
    "every map masks the first image": ("mask.cuh", "from = index / masking.maps *", "from = 0 / masking.maps *"),
    "four pixels of a masked image written where three are left": (
        "mask.cuh",
        "if (j < count) place[j * out_step]",
        "place[j * out_step]",
    ),
    "masked images read in runs at any stride": ("mask.cuh", "masking.image_vector && count", "count"),
    # Derivatives.
    "no barrier before the warps' parts of a channel's sum are read": (
        "sums.cuh",
        "scratch[thread() / warp] = value;\n    block_barrier();",
        "scratch[thread() / warp] = value;",
    ),
    "a channel's next sum overwrites the one that is read": (
        "sums.cuh",
        "sum += scratch[i];\n    block_barrier();",
        "sum += scratch[i];",
    ),
    "a derivative of the last class alone": (
        "cam_backward.cuh",
        "of_activation += of.weight * score",
        "of_activation = of.weight * score",
    ),
    "a derivative by another class's gradients": (
        "cam_backward.cuh",
        "plan.gradients.at<const Element>(n, k, c), pixel",
        "plan.gradients.at<const Element>(n, 0, c), pixel",
    ),
    "terms do not change with the sum of activations": (
        "cam_backward.cuh",
        "weight.by_sum * sums.by_total + weight.by_total",
        "T(0) * sums.by_total + weight.by_total",
    ),
    "a derivative's rows and columns swapped": (
        "cam_backward.cuh",
        "z_ * planes.slice + y_ * planes.row + along",
        "z_ * planes.slice + y_ * planes.column + x_ * planes.row",
    ),
    "neighbouring channels are taken for pixels": (
        "cam_backward.cuh",
        "plan.by_channel ? rest : outer",
        "outer",
    ),
    "a channel's last pixels are not added": (
        "cam_backward.cu",
        "plan.pixels > 2048) plan.lane_bits = 8;",
        "plan.pixels > 2048) plan.lane_bits = 7;",
    ),
    "the last part of a large channel is left out": (
        "cam_backward.cuh",
        "i = thread() % warp; i < parts; i += warp",
        "i = thread() % warp; i + 1 < parts; i += warp",
    ),
    "a part's sum of activations in place of its channel's": (
        "cam_backward.cuh",
        "total = whole || totals ?",
        "total = true ?",
    ),
    "every part of a large channel goes on to its end": (
        "cam_backward.cuh",
        "end = whole ? plan.pixels : share",
        "end = true ? plan.pixels : share",
    ),
    "the workspace has no room for all parts of a channel": (
        "cam_backward.cu",
        "pieces.take<PartSums<T>>(count * plan.parts)",
        "pieces.take<PartSums<T>>(count)",
    ),
    "no barrier before the warps' ties are read": (
        "resize_backward.cuh",
        "scratch.extremes[thread() / warp] = sums;\n    block_barrier();",
        "scratch.extremes[thread() / warp] = sums;",
    ),
    "ties of a warp's first pixels alone": ("resize_backward.cuh", "warp_sum(sums.highs)", "sums.highs"),
    "the extremes of the first blocks alone": (
        "resize_backward.cuh",
        "i < plan.tiles; i += warp",
        "i < plan.tiles && i < warp; i += warp",
    ),
    "no barrier before a map's extremes are read": (
        "resize_backward.cuh",
        "= shares;\n        }\n    }\n    block_barrier();",
        "= shares;\n        }\n    }",
    ),
    "the first launch's maps in every one": (
        "gather.cuh",
        "slopes_(given_slopes<T>(plan, first + map))",
        "slopes_(given_slopes<T>(plan, map))",
    ),
    "the weights of an output's two inputs swapped": (
        "gather.cuh",
        "at.low == x ? 1 - weight : at.high == x ? weight",
        "at.low == x ? weight : at.high == x ? 1 - weight",
    ),
    "the last terms of a pixel that reaches far are left out": (
        "gather.cuh",
        "i = lane; i < count; i += lanes",
        "i = lane; i + lanes <= count; i += lanes",
    ),
    "what a warp gathers of a pixel is its first lane's": (
        "gather.cuh",
        "by.lane_bits, scratch.sums)",
        "by.lane_bits > 5 ? by.lane_bits : 0, scratch.sums)",
    ),
    "half a block for pixels that reach furthest": (
        "resize_backward.cu",
        "terms > each * warp ? 8",
        "terms > each * warp ? 7",
    ),
    "rows first, however much passes between": (
        "resize_backward.cu",
        "own.width > to.width && to",
        "own.width > (int64_t{1} << 40) && to",
    ),
    "across rows first, along the map's own": (
        "gather.cuh",
        "once ? tap_of<T>(at.x, from.width, to.width)",
        "once ? tap_of<T>(at.x, to.width, from.width)",
    ),
    "the workspace is a row too small": (
        "resize_backward.cu",
        "pieces.take<double>(together_ * passed)",
        "pieces.take<double>(together_ * passed - 64)",
    ),
    # Memory.
    "a channel beyond the last is written": ("weigh.cuh", "lane == 0 && own < channels", "lane == 0"),
    "the palette overruns its piece": (
        "draw.cuh",
        "carve.take<uint8_t>(palette_bytes);",
        "carve.take<uint8_t>(palette_bytes - 32);",
    ),
    "taps overrun their table": ("map.cuh", "space.take<Entry>(count)", "space.take<Entry>(count - 4)"),
    "one widened row too few": (
        "map.cuh",
        "frame.height / frame.out_height + 3;",
        "frame.height / frame.out_height + 1;",
    ),
    "the ring is a stage too small": (
        "fold.cuh",
        "stages * plan.stage_bytes() : 0",
        "(stages - 1) * plan.stage_bytes() : 0",
    ),
    "the workspace is one part too small": (
        "cam.cu",
        "sums_ = pieces.take<T>(together_ * sums);",
        "sums_ = pieces.take<T>(together_ * sums - plan_.pixels);",
    ),
    "the default stream": (
        "launch.hpp",
        "config.stream = static_cast<cudaStream_t>(queue.stream);",
        "config.stream = nullptr;",
    ),
    "clusters by the device alone": (
        "launch.cu",
        "if (attributes.ptxVersion < 90) return known[{kernel, device.index, asked}] = 0;",
        "",
    ),
    "the largest cluster whether it fits or not": (
        "launch.cu",
        "== cudaSuccess && active > 0) break;",
        "== cudaSuccess || true) break;",
    ),
}
