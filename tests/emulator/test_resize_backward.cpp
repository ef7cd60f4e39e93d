// resize's derivative on CUDA: against finite differences of the CPU's resize in float64, and against the CPU's own.
#include "derivatives.hpp"

using namespace test;

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

struct Resized {
    const Array &heatmap, &slopes;
    Size size;
    Normalization normalize;
    int64_t spatial;

    ResizeBackwardCall into(const Array& of_heatmap) const {
        return plan_resize_backward(heatmap.view(), size, normalize, spatial, slopes.view(), of_heatmap.view());
    }
};

Shape result_of(const Shape& shape, const Size& size, int64_t spatial) {
    Shape result = shape;
    result.rank -= static_cast<int>(spatial);
    append(result, size, spatial);
    return result;
}

// The size of what is added up for a pixel: slopes of about 1, over what their map is divided by.
double summed(const Resized& given) {
    ResizeCall call = plan_resize(given.heatmap.view(), given.size, Normalize::none, given.spatial);
    const Array out(call.result, result_dtype(given.heatmap.view().dtype));
    call.out = out.view();
    cpu::resize(call);
    const int64_t count = call.result.count(), each = given.size.height * given.size.width * given.size.depth;
    double least = 1;
    for (int64_t first = 0; first < count; first += each) {
        double low = 0, high = 0;
        for (int64_t i = first; i < first + each; ++i) {
            low = i > first ? std::min(low, out.get(i)) : out.get(i);
            high = i > first ? std::max(high, out.get(i)) : out.get(i);
        }
        if (given.normalize.by == Normalize::max) low = 0;
        if (given.normalize.any() && high > low) least = std::min(least, high - low + given.normalize.eps);
    }
    return std::sqrt(static_cast<double>(each)) / least;
}

// The CPU's of the same type finds the same extremes, and adds up in float64 too.
void check_resized(const Resized& given, int device, const char* what, int round) {
    const ArrayView& from = given.heatmap.view();
    Array wanted(from.shape, from.dtype);
    cpu::resize_backward(given.into(wanted));
    const Array got = poisoned(from.shape, from.dtype);
    run_on(device, given.into(got), cuda::resize_backward);
    check_close(got, wanted, 1, what, round, summed(given));
}

}  // namespace

TEST_CASE(derivatives_of_resized_maps_agree_with_the_cpus) {
    begin();
    for (int round = 0; round < rounds(120); ++round) {
        choose_order(round);
        const int64_t spatial = round % 3 + 1;
        Shape shape = round % 4 ? shape_of({integer(1, 3)}) : shape_of({2, integer(1, 2)});
        for (int64_t axis = 0; axis < spatial; ++axis) shape.append(integer(1, spatial == 3 ? 6 : 20));
        const Size size = spatial == 1   ? Size{1, integer(1, 60)}
                          : spatial == 2 ? Size{integer(1, 50), integer(1, 50)}
                                         : Size{integer(1, 9), integer(1, 9), integer(1, 9)};
        const DType dtype = any_floating();
        Array heatmap(shape, dtype, round % 2), slopes(result_of(shape, size, spatial), result_dtype(dtype));
        heatmap.fill_normal();
        slopes.fill_normal();
        if (round % 3 == 0)  // several extremes
            for (int64_t i = 0; i < shape.count(); ++i) heatmap.set(i, static_cast<double>(integer(-1, 1)));
        if (round % 10 == 4) heatmap.fill(round % 4 ? 2 : -1);
        if (round % 10 == 7) heatmap.set(0, unknown);
        check_resized({heatmap, slopes, size, any_normalize(), spatial},
                      devices[static_cast<size_t>(round) % devices.size()], "resize", round);
    }
}

TEST_CASE(derivatives_of_resized_maps_are_finite_differences) {
    if (thread_sanitizer) return;
    begin();
    for (int round = 0; round < 24; ++round) {
        const int64_t spatial = round % 2 + 2;
        Shape shape = shape_of({2});
        for (int64_t axis = 0; axis < spatial; ++axis) shape.append(integer(2, spatial == 3 ? 3 : 6));
        Size size = spatial == 2 ? Size{integer(2, 11), integer(2, 11)} : Size{4, integer(2, 5), integer(2, 5)};
        if (round % 6 > 3) {  // one axis grows and the other shrinks: the order of both transpositions depends on it
            shape.extent[shape.rank - 2] = round % 6 == 4 ? 2 : 5;
            shape.extent[shape.rank - 1] = round % 6 == 4 ? 5 : 2;
            size = round % 6 == 4 ? Size{6, 2, 2} : Size{2, 6, 2};
            if (spatial == 2) size.depth = 1;
        }
        const Normalization normalize(static_cast<Normalize>(round % 3), round % 4 ? 0.25 : 0);
        Array heatmap(shape, DType::float64), slopes(result_of(shape, size, spatial), DType::float64);
        heatmap.fill_normal();
        slopes.fill_normal();
        for (int64_t map = 0; map < 2; ++map) heatmap.set(map * shape.count() / 2, 3);  // "max" needs a positive one
        const Array got = poisoned(shape, DType::float64);
        run_on(h100, Resized{heatmap, slopes, size, normalize, spatial}.into(got), cuda::resize_backward);
        const Array wanted = differences(heatmap, [&] {
            ResizeCall call = plan_resize(heatmap.view(), size, normalize, spatial);
            Array out(call.result, DType::float64);
            call.out = out.view();
            cpu::resize(call);
            double sum = 0;
            for (int64_t i = 0; i < call.result.count(); ++i) sum += slopes.get(i) * out.get(i);
            return sum;
        });
        check_close(got, wanted, 1e-6 / unit(DType::float64), "resize", round);
    }
}

TEST_CASE(equal_extremes_share_their_part) {
    begin();
    const double values[] = {1, 3, 3, 0, 0, 2}, wanted[] = {0, -1. / 9, -1. / 9, -1. / 18, -1. / 18, 1. / 3};
    Array heatmap(shape_of({2, 3}), DType::float32), slopes(shape_of({2, 3}), DType::float32);
    slopes.fill(0);
    slopes.set(5, 1);
    for (int64_t i = 0; i < 6; ++i) heatmap.set(i, values[i]);
    const Array got = poisoned(heatmap.view().shape, DType::float32);
    run_on(h100, Resized{heatmap, slopes, {2, 3}, Normalize::minmax, 2}.into(got), cuda::resize_backward);
    for (int64_t i = 0; i < 6; ++i)
        CHECK(std::abs(got.get(i) - wanted[i]) < 1e-7, "%g, expected %g", got.get(i), wanted[i]);
}

TEST_CASE(maps_of_more_than_one_launch) {
    if (thread_sanitizer) return;
    begin();
    const int64_t maps = 3, height = 1500 * 1000;
    const Size size{height, 2};  // 24 MB each between the transpositions
    Array heatmap(shape_of({maps, 1, 2}), DType::float32), slopes(shape_of({maps, height, 2}), DType::float32);
    heatmap.fill_normal();
    for (int64_t i = 0; i < slopes.view().shape.count(); ++i) slopes.set(i, static_cast<double>(i * 7919 % 1021 - 500));
    const Counts before = fake.counts;
    check_resized({heatmap, slopes, size, Normalize::max, 2}, h100, "launches", 0);
    CHECK(fake.counts.launches - before.launches == 8, "%d launches", fake.counts.launches - before.launches);
}

TEST_CASE(large_maps_are_shared_by_many_blocks) {
    if (thread_sanitizer) return;
    begin();
    for (const int64_t extent : {130, 20}) {
        const Size size{extent == 130 ? 300 : 610, 470};
        Array heatmap(shape_of({extent, 90}), DType::float16), slopes(shape_of({size.height, 470}), DType::float32);
        heatmap.fill_normal();
        slopes.fill_normal();
        check_resized({heatmap, slopes, size, Normalize::minmax, 2}, a100, "large", 0);
    }
}

// One thread, a warp or a block for a pixel: up to 64 terms, up to 2048 and more, along rows and across.
TEST_CASE(pixels_that_reach_far_are_shared_by_many_threads) {
    begin();
    struct Far {
        Shape shape;
        Size size;
        int64_t spatial;
    };
    std::vector<Far> all;
    for (const int64_t terms : {63, 64, 65, 2048, 2049, 5000}) {
        const int64_t out = terms < 5000 ? terms : 16000, of_five = 5 * (terms - 3) / 2 + 2;
        all.push_back({shape_of({2, 1}), {1, out}, 1});
        all.push_back({shape_of({2, 1, 2}), {1, out}, 2});
        all.push_back({shape_of({2, 5}), {1, of_five}, 1});
        all.push_back({shape_of({2, 5, 1}), {of_five, 1}, 2});
        all.push_back({shape_of({2, 2, 3}), {out, 4}, 2});
        all.push_back({shape_of({2, 1, 7}), {out, 3}, 2});
        all.push_back({shape_of({2, 3, 40}), {of_five, 2}, 2});
    }
    for (const Size& size : {Size{16, 3, 4}, Size{13, 2, 5}, Size{64, 4, 32}, Size{683, 1, 3}, Size{3, 2, 800}}) {
        all.push_back({shape_of({2, 1, 1, 9}), size, 3});
        all.push_back({shape_of({2, 2, 1, 1}), size, 3});
    }
    for (size_t i = 0; i < all.size(); i += thread_sanitizer ? 6 : 1) {
        const int round = static_cast<int>(i);
        choose_order(round);
        const Far& far = all[i];
        // In float64 the CPU's own chain of so many additions would count.
        const int64_t count = far.size.depth * far.size.height * far.size.width;
        const DType dtype = count < 200 ? any_floating() : floating[integer(0, 2)];
        Array heatmap(far.shape, dtype, round % 2),
            slopes(result_of(far.shape, far.size, far.spatial), result_dtype(dtype));
        heatmap.fill_normal();
        slopes.fill_normal();
        check_resized({heatmap, slopes, far.size, any_normalize(), far.spatial}, devices[i % devices.size()], "far",
                      round);
    }
}

TEST_CASE(what_passes_between_is_no_more_than_the_inputs_or_the_outputs) {
    begin();
    const auto bytes = [](const Shape& shape, const Size& size, int64_t spatial) {
        ArrayView from = dense_view(nullptr, shape, DType::float32);
        from.device = {2, 0};
        ArrayView slopes = dense_view(nullptr, result_of(shape, size, spatial), DType::float32);
        slopes.device = from.device;
        return cuda::workspace(plan_resize_backward(from, size, Normalize::none, spatial, slopes, from), h100);
    };
    const int64_t most = (int64_t{1} << 31) - 1;
    CHECK(bytes(shape_of({1, 30000}), {30000, 1}, 2) == 256);
    CHECK(bytes(shape_of({1, int64_t{1} << 30}), {most, 1}, 2) == 256);
    CHECK(bytes(shape_of({1, 1, most}), {most, 2, 1}, 3) == 256);
    CHECK(bytes(shape_of({most, 1}), {1, most}, 2) == 256);
    CHECK(bytes(shape_of({1, 1 << 12, most}), {most, 1, 1 << 12}, 3) == 8 << 12);
    for (const bool wide : {true, false}) {
        const Shape shape = wide ? shape_of({2, 1, 700}) : shape_of({2, 700, 1});
        const Size size = wide ? Size{600, 1} : Size{1, 600};
        Array heatmap(shape, DType::float32), slopes(result_of(shape, size, 2), DType::float32);
        heatmap.fill_normal();
        slopes.fill_normal();
        check_resized({heatmap, slopes, size, Normalize::minmax, 2}, h100, "order", wide);
    }
}

TEST_CASE(all_outputs_that_read_an_input_are_in_its_reach) {
    for (int64_t in = 1; in < 24; ++in)
        for (int64_t out = 1; out < 60; ++out)
            for (int64_t x = 0; x < in; ++x) {
                const Reach found = reach(x, in, out);
                CHECK(found.first >= 0 && found.end <= out, "%d of %d to %d", int(x), int(in), int(out));
                for (int64_t at = 0; at < out; ++at) {
                    const Tap<float> from = in == out ? still<float>(at) : tap<float>(at, in, out);
                    const bool within = at >= found.first && at < found.end;
                    CHECK(within || (from.low != x && from.high != x), "%d of %d, output %d of %d", int(x), int(in),
                          int(at), int(out));
                }
            }
}
