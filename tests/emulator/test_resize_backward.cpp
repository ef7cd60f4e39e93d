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
        const Size size = spatial == 2 ? Size{integer(2, 11), integer(2, 11)} : Size{4, integer(2, 5), integer(2, 5)};
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
    const int64_t maps = 5, width = 1 << 15;
    const Size size{60, 2};  // 16 MB of rows each
    Array heatmap(shape_of({maps, 1, width}), DType::float32), slopes(shape_of({maps, 60, 2}), DType::float32);
    heatmap.fill_normal();
    slopes.fill_normal();
    const Counts before = fake.counts;
    check_resized({heatmap, slopes, size, Normalize::max, 2}, h100, "launches", 0);
    CHECK(fake.counts.launches - before.launches == 8, "%d launches", fake.counts.launches - before.launches);
}

TEST_CASE(large_maps_are_shared_by_many_blocks) {
    if (thread_sanitizer) return;
    begin();
    Array heatmap(shape_of({130, 90}), DType::float16), slopes(shape_of({300, 310}), DType::float32);
    heatmap.fill_normal();
    slopes.fill_normal();
    check_resized({heatmap, slopes, {300, 310}, Normalize::minmax, 2}, a100, "large", 0);
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
