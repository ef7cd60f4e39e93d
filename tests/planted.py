"""The bugs that plant_bugs.py plants: a file, what is wrong, and text replaced by text, which must stand there once."""

from typing import NamedTuple


class Bug(NamedTuple):
    file: str
    name: str
    edits: tuple[tuple[str, str], ...]
    likely: tuple[str, ...]
    """The tests to begin with, which saves time and nothing else."""
    level: str | None
    """The instruction set that has it, where that is one."""


# Where test_cam.py is not the one that finds it.
LIKELY = {
    "colour.hpp": ("colorize", "overlay"),
    "cpu/overlay.cpp": ("colorize", "overlay"),
    "cpu/mask.cpp": ("mask",),
    "dtype.hpp": ("mask",),
    "cpu/paint_kernels.hpp": ("colorize", "overlay"),
    "a weight of 0 reads infinity": ("nan",),
    "minimum and maximum lose NaN": ("nan",),
    "a NaN map becomes zeros": ("nan",),
    "ReLU loses NaN": ("nan",),
    "nan='zero' passes infinity": ("nan",),
    "nan='raise' writes out": ("nan",),
    "writes to out go unnoticed": ("moving_inputs",),
    "grey images step through channels": ("overlay",),
    "channels first preferred": ("overlay",),
}

LEVELS = {
    "a row's last pixel has no colour": "avx2",
    "NaN pixels coloured": "avx2",
    "indices not put right": "avx2",
    "no NaN in a short row": "avx2",
    "NaN pixels coloured at once": "avx512",
    "indices rounded up": "avx512",
    "no NaN in a row": "avx512",
    "the palette's upper half lost": "avx512",
    "green and blue swapped": "avx512",
    "the last pixels of a row lost": "avx512",
}


def bug(file: str, name: str, *texts: str) -> Bug:
    """Texts in pairs: old, new, old, new, ..."""
    edits = tuple(zip(texts[::2], texts[1::2], strict=True))
    return Bug(f"csrc/{file}", name, edits, LIKELY.get(name, LIKELY.get(file, ("minimal", "cam"))), LEVELS.get(name))


NONE = bug("ops.cpp", "no bug")
CAM, ROWS, DRAWING, PAINT = (
    f"cpu/{name}" for name in ("cam.cpp", "row_kernels.hpp", "draw_kernels.hpp", "paint_kernels.hpp")
)
FOLDED = """for (; c < count; ++c) {
        const T sum"""
CHAIN = """    if (full < 0) {
        T chain = T(0);
        for (; v < vectors * L; ++v) chain += one<T>(row[v]);
        a = Vector<T>(chain / T(L)), v = vectors;
    } else if (vectors >= 4) {"""
DRAW = """call_.out.offset(item.map + k, 2),
                   0, grid_.y.out, row);"""
RELU_ON_OUT = """
        for (int64_t i = 0; call_.options.relu && i < grid_.y.out * grid_.x.out; ++i) {
            T& v = *call_.out.at<T>(call_.out.offset(item.map + k, 2) + i / grid_.x.out * call_.out.stride(-2) +
                                    i % grid_.x.out * call_.out.stride(-1));
            v = v < T(0) ? T(0) : v;
        }"""
AS_FIRST = """{
        call.activations.move_axis(rank - 1, rank - 3);
        call.activations = dense_view(activations.data, call.activations.shape, activations.dtype);
    }"""
POOL = """for (int64_t p = 0; p < pixels_; p += tile_pixels) {
            const int64_t length = std::min(tile_pixels, pixels_ - p);
            T parts"""
MAP = """for (int64_t p = 0; p < pixels_; p += tile_pixels) {
                const int64_t length = std::min(tile_pixels, pixels_ - p);"""
FULL_TILES = ("p < pixels_;", "p == 0 || p + tile_pixels <= pixels_;")
EDGE = "return i % 2 == 1 ? begin - 1 : begin;"

BUGS = [
    # sampling.hpp: where a pixel comes from, and what it becomes
    bug(
        "cpu/resample.hpp",
        "samples half a pixel off",
        "in >= out ? (in - out) / under : -((out - in + under - 1) / under)",
        "0",
        "int64_t rest = in - out - low * under;",
        "int64_t rest = 0;",
    ),
    bug("cpu/resample.hpp", "wrong clamp at the far edge", "low >= 0 && low < in - 1;", "low >= 0 && low < in - 2;"),
    bug("cpu/resample.hpp", "no clamp at the near edge", "low >= 0 && low < in", "low >= -1 && low < in"),
    bug("cpu/resample.hpp", "nearest instead of linear", "inside ? weight : T(0)", "T(0)"),
    bug("sampling.hpp", "a weight of 0 reads infinity", "weight == T(0) ? a : between", "between"),
    bug(
        "sampling.hpp",
        "(1 - w) a + w b",
        "a + weight * (b - a);\n",
        "(T(1) - weight) * a + weight * b;\n",
    ),
    bug(
        "sampling.hpp",
        "minimum and maximum lose NaN",
        "(value < low || value != value)",
        "(value < low)",
        "(value > high || value != value)",
        "(value > high)",
    ),
    bug("sampling.hpp", "a NaN map becomes zeros", "fill = std::numeric_limits<T>::quiet_NaN();", "fill = T(0);"),
    bug(
        "sampling.hpp",
        "times the reciprocal",
        "if (divisor * factor < T(1)) factor = above(factor);",
        "",
    ),
    bug("sampling.hpp", "max subtracts the minimum", "minmax ? range.low : T(0)", "range.low"),
    bug("sampling.hpp", "a flat map is divided by 0", "!(range.high > offset)", "range.high < offset"),
    bug("sampling.hpp", "extremes miss the ends of cells", EDGE, "return begin;"),
    bug("sampling.hpp", "extremes miss the beginnings of cells", EDGE, "return begin - 1;"),
    # resample.hpp: maps on their way to the output grid
    bug(
        "cpu/resample.hpp",
        "extremes of the small map",
        "i < y.edge_count(); ++i",
        "i < y.in; ++i",
        "const Tap<T> at = y[y.edge(i)];",
        "const Tap<T> at{i, i, T(0)};",
    ),
    bug(DRAWING, "exact rows are not normalised", "blend<by, false>(", "blend<By::nothing, false>("),
    bug(DRAWING, "the rest of a row's extremes is skipped", "any_nan(trace) ? 0 : x", "any_nan(trace) ? 0 : width"),
    bug(DRAWING, "minimum instructions lose NaN", "any_nan(trace) ? 0 : x", "x"),
    bug(DRAWING, "clamped values lose NaN", "lesser(V(T(1)), scaled)", "lesser(scaled, V(T(1)))"),
    bug(DRAWING, "a cell too few is widened", "cell < in; ++cell", "cell + 1 < in; ++cell"),
    bug("cpu/resample.hpp", "cells begin one late", "lows_[x] < cell)", "lows_[x] <= cell)"),
    bug(
        "cpu/resample.hpp",
        "out is taken to be dense",
        "out.at<T>(offset + y * over_height)",
        "out.at<T>(offset + y * width)",
    ),
    bug("cpu/resample.hpp", "swapped strides of a heatmap", "y * heatmap.strides[0]", "y * step * width"),
    bug(
        "cpu/resample.hpp",
        "every map is the first",
        "heatmap.sub(index, 2), small);\n            c",
        "heatmap.sub(0, 2), small);\n            c",
    ),
    # cam.cpp, sums.hpp: pooling and summing
    bug(
        ROWS,
        "skipped tail of channels",
        "for (; c < count; ++c) add_rows<Rule, T, 1>",
        "for (; c < 0; ++c) add_rows<Rule, T, 1>",
    ),
    bug(ROWS, "skipped tail of folded channels", FOLDED, FOLDED.replace("c < count", "c < 0")),
    bug(ROWS, "the rest of a small map is lost", "i = L - rest; i < L", "i = L; i < L"),
    bug(ROWS, "the rest of a map is added twice", "sum += last_lanes(rest, ", "sum += last_lanes(int64_t{L}, "),
    bug(ROWS, "a short row's last element is lost", "i < length; ++i) sum +=", "i + 1 < length; ++i) sum +="),
    bug(CAM, "skipped last block of channels", "(channels_ + block_ - 1) / block_", "channels_ / block_"),
    bug(CAM, "skipped tail of pooled pixels", POOL, POOL.replace(*FULL_TILES)),
    bug(CAM, "skipped tail of the map's pixels", MAP, MAP.replace(*FULL_TILES)),
    bug(CAM, "alpha not divided", "sums[c].total() / static_cast<T>(pixels_)", "sums[c].total()"),
    bug(CAM, "ReLU after resampling", "if (options.relu)", "if (false)", DRAW, DRAW + RELU_ON_OUT),
    bug(CAM, "ReLU loses NaN", "map[p] < T(0) ? T(0) : map[p]", "map[p] > T(0) ? map[p] : T(0)"),
    bug(CAM, "nan='zero' passes infinity", "!std::isfinite(map[p])", "std::isnan(map[p])"),
    bug(CAM, "every class is the first", "offset(item.map + k, 3) + c", "offset(item.map, 3) + c"),
    bug(
        CAM,
        "wrong K stride of partial maps",
        "pairwise_rows(map, blocks_, group_ * pixels_",
        "pairwise_rows(map, blocks_, pixels_",
    ),
    bug(CAM, "later groups of classes drawn first", "image * classes_ + first}", "image * classes_}"),
    bug(CAM, "maps of later classes not cleared", "item.classes * pixels_, T(0)", "pixels_, T(0)"),
    bug(CAM, "one zero stride taken for two", "no_step(3) && no_step(4)", "no_step(3) || no_step(4)"),
    bug(ROWS, "skipped tail of lanes", "if (rest > 0) d +=", "if (rest > 99) d +="),
    bug(
        ROWS,
        "pooled rest counted twice",
        "return last_lanes(rest, Rule::gather(load<T>(row",
        "return (Rule::gather(load<T>(row",
    ),
    bug("cpu/sums.hpp", "an odd block is left out", "i + apart < count", "i + 2 * apart <= count"),
    bug(
        "cpu/sums.hpp", "one long chain over channels", "(sixteenth + 7) / 8 * 8, 8, 128", "sixteenth * 16, 8, 1 << 20"
    ),
    bug(ROWS, "one long chain over pixels", "    if (vectors >= 4) {", CHAIN),
    # tiles.hpp, dtype.hpp: reading
    bug("cpu/tiles.hpp", "swapped stride", "h * over_height_ + w * over_width", "h * width_ + w * over_width"),
    bug("cpu/tiles.hpp", "sliced rows taken to be dense", "(array.extent(-2) == 1 || over_height_ == width_)", "true"),
    bug("dtype.hpp", "bfloat16 loses its last bit", "(value.bits) << 16", "(value.bits & 0xfffeu) << 16"),
    bug(
        "dtype.hpp", "float16 subnormals are zeros", "exponent == 0 ? subnormal : normal", "exponent == 0 ? 0u : normal"
    ),
    bug("dtype.hpp", "float16 infinity is finite", "exponent == 0x0f800000u ? special : finite", "finite"),
    # ops.cpp: shapes
    bug("ops.cpp", "every image has the first one's weights", "if (view.extent(0) != N) {", "if (N > 0) {"),
    bug("ops.cpp", "channels-last read as first", "call.activations.move_axis(rank - 1, rank - 3);", AS_FIRST),
    bug("ops.cpp", "grey images step through channels", "strides[batch + 2] = 0;", "strides[batch + 2] = 1;"),
    bug(
        "ops.cpp",
        "channels first preferred",
        "!colours(image.extent(-1))) {",
        "(colours(image.extent(-3)) || !colours(image.extent(-1)))) {",
    ),
    # colour.hpp, overlay.cpp: colours
    bug("colour.hpp", "colour index cut off", "* 255.0 + 0.5);", "* 255.0);"),
    bug(
        "colour.hpp",
        "colour index in float32",
        "static_cast<double>(bounded) * 255.0 + 0.5",
        "bounded * T(255) + T(0.5)",
    ),
    bug("colour.hpp", "blend cut off", "static_cast<uint8_t>(value + 0.5)", "static_cast<uint8_t>(value)"),
    bug(
        "cpu/overlay.cpp",
        "alpha and its rest swapped",
        "rest_(1 - call.alpha), share_(call.alpha)",
        "rest_(call.alpha), share_(1 - call.alpha)",
    ),
    bug("cpu/overlay.cpp", "NaN pixels of bytes blended", "if (index[x] == unknown_colour) std", "if (false) std"),
    bug("cpu/overlay.cpp", "NaN pixels of floats blended", "nearest(known ? rest_", "nearest(true ? rest_"),
    bug(
        "cpu/overlay.cpp",
        "a row's last pixel has no colour",
        "std::memcpy(out + 3 * (width - 1), colours_",
        "if (width < 0) std::memcpy(out, colours_",
    ),
    bug(PAINT, "NaN pixels coloured", "_mm256_blendv_epi8(_mm256_set1_epi32(unknown_colour), found, known)", "found"),
    bug(PAINT, "indices not put right", "_mm256_add_epi32(first, less)", "first"),
    bug(PAINT, "NaN pixels coloured at once", "_mm512_maskz_mov_epi8(known, ", "_mm512_maskz_mov_epi8(~0ull, "),
    bug(PAINT, "no NaN in a short row", "return _mm256_movemask_epi8(known) == -1;", "return true;"),
    bug(PAINT, "indices rounded up", "_MM_FROUND_TO_NEG_INF", "_MM_FROUND_TO_POS_INF"),
    bug(PAINT, "no NaN in a row", "return unknown == 0;", "return true;"),
    bug(PAINT, "the palette's upper half lost", "_mm512_movepi8_mask(at)", "__mmask64{0}"),
    bug(PAINT, "green and blue swapped", "i % 3 == 1 ? 64", "i % 3 == 2 ? 64", "if (i % 3 == 2)", "if (i % 3 == 1)"),
    bug(PAINT, "the last pixels of a row lost", "if (x < width) colour(x, std::false_type{});", ""),
    bug(PAINT, "whole numbers rounded down", "of_image * image[i] + 128)", "of_image * image[i])"),
    bug(PAINT, "averages rounded down", "colours[i] + image[i] + 1) >> 1", "colours[i] + image[i]) >> 1"),
    bug(
        "colour.hpp",
        "float images not clamped",
        "(wide > 1.0 ? 1.0 : (wide > 0.0 ? wide : 0.0))",
        "(wide > 0.0 ? wide : 0.0)",
    ),
    # mask.cpp, dtype.hpp: masked images
    bug("cpu/mask.cpp", "every map masks the first image", "sub(index / maps_, 3)", "sub(0 * maps_, 3)"),
    bug("cpu/mask.cpp", "the noise of the first map", "noise.offset(index, 2) +", "noise.offset(0, 2) +"),
    bug("cpu/mask.cpp", "an image's columns lie side by side", "if (image.strides[2] != 1) {", "if (false) {"),
    bug("cpu/mask.cpp", "float64 heatmaps in float32", "if (call.heatmap.dtype == DType::float64)", "if (false)"),
    bug("dtype.hpp", "halves cut off", "+ 0xfffu + (magnitude >> 13 & 1u)", ""),
    bug("dtype.hpp", "ties away from zero", "+ 0xfffu + (magnitude >> 13 & 1u)", "+ 0x1000u"),
    bug(
        "dtype.hpp",
        "small halves become zeros",
        "const uint32_t finite = magnitude < (113u << 23) ? subnormal",
        "const uint32_t finite = magnitude < (113u << 23) ? 0 * subnormal",
    ),
    bug("dtype.hpp", "NaN becomes infinity", "magnitude > 0x7f800000u ? ", "magnitude > 0x7ff00000u ? "),
    bug("dtype.hpp", "bfloat16 cut off", "(bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;", "bits >> 16;"),
    # threads.cpp, entries.cpp
    bug("cpu/threads.cpp", "the first thread's part only", "if (begin < end) share", "if (begin == 0) share"),
    bug("cpu/threads.cpp", "skipped remainder of threads", "begin + each + (thread < rest ? 1 : 0)", "begin + each"),
    bug("bind/framework.cpp", "writes to out go unnoticed", '"increment_version"', '"no_such_function"'),
    bug("bind/entries.cpp", "nan='raise' writes out", "&& backend::raise_keeps_out) {", "&& false) {"),
]
