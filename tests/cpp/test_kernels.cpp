// cam, resize, colorize and overlay on random shapes, types and layouts against float64, in memory of exact size.
#include <array>
#include <atomic>
#include <limits>
#include <thread>

#include "compare.hpp"
#include "cpu/threads.hpp"

using namespace fusedcam;
using namespace test;

TEST_CASE(cam_agrees_with_float64) {
    for (int round = 0; round < 200; ++round) {
        const int64_t N = integer(1, 3), K = integer(1, 4), C = integer(1, round % 10 ? 40 : 1500), H = integer(1, 12),
                      W = integer(1, 12);
        const DType dtype = any_floating();
        const bool by_weights = integer(0, 3) == 0;
        Array activations(shape_of({N, C, H, W}), dtype, round % 2),
            second(by_weights ? shape_of({N, K, C}) : shape_of({N, K, C, H, W}), dtype, round % 3 == 0);
        activations.fill_normal();
        second.fill_normal();
        CamOptions options;
        options.relu = integer(0, 1);
        options.normalize = any_normalize();
        if (integer(0, 1)) options.size = any_size();
        CamCall call = plan_cam(activations.view(), second.view(),
                                by_weights ? CamSource::weights : CamSource::gradients, options);
        Array out = poisoned(call.result, result_dtype(dtype));
        call.out = out.view();
        cpu::cam(call);

        compare_cam(call, activations, second, by_weights, out);
    }
}

// The same call on all threads and, with `work` small, on one: the bits are the same.
template <class Call>
void on_threads(Call call, DType dtype, void (*op)(const Call&)) {
    CHECK(call.work >= serial_below);
    Array out = poisoned(call.result, dtype), again = poisoned(call.result, dtype);
    call.out = out.view();
    op(call);
    call.work = 0;
    call.out = again.view();
    op(call);
    for (int64_t i = 0; i < out.view().shape.count(); ++i) CHECK(out.get(i) == again.get(i), "element %d", int(i));
}

TEST_CASE(work_is_shared_out_over_threads) {
    // One image, whose blocks and rows are shared; as many images as threads; many classes.
    const std::array<std::array<int64_t, 5>, 3> shapes{{{1, 1, 300, 37, 41}, {6, 1, 200, 20, 20}, {1, 9, 60, 25, 25}}};
    for (const auto& [N, K, C, H, W] : shapes)
        for (const bool dense : {true, false}) {
            Array activations(shape_of({N, C, H, W}), DType::float32, !dense),
                gradients(shape_of({N, K, C, H, W}), DType::float32, !dense);
            activations.fill_normal();
            gradients.fill_normal();
            CamOptions options;
            options.size = Size{200, 150};
            on_threads(plan_cam(activations.view(), gradients.view(), CamSource::gradients, options), DType::float32,
                       cpu::cam);
        }
    uint8_t palette[256][3];
    for (auto& row : palette)
        for (auto& value : row) value = static_cast<uint8_t>(integer(0, 255));
    for (const int64_t maps : {1, 7}) {
        Array heatmap(shape_of({maps, 9, 11}), DType::float32), image(shape_of({maps, 700, 900, 3}), DType::uint8);
        heatmap.fill_normal();
        image.fill(100);
        on_threads(plan_resize(heatmap.view(), {700, 900}, Normalize::minmax), DType::float32, cpu::resize);
        on_threads(plan_overlay(image.view(), heatmap.view(), palette, 0.4, Normalize::max), DType::uint8,
                   cpu::overlay);
        on_threads(plan_colorize(heatmap.view(), palette, Size{700, 900}, Normalize::minmax), DType::uint8,
                   cpu::colorize);
    }
}

TEST_CASE(a_limit_that_changes_meanwhile) {
    std::atomic<bool> done{false};
    std::thread changing([&] {
        for (int limit = 0; !done.load(); limit = (limit + 1) % 4) cpu::limit_threads(limit);
    });
    for (int round = 0; round < 3000; ++round) {
        std::array<int, 64> seen{};
        cpu::parallel_ranges(64, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        for (const int times : seen) CHECK(times == 1, "%d times in round %d", times, round);
    }
    done = true;
    changing.join();
    cpu::limit_threads(0);
}

TEST_CASE(resize_agrees_with_float64_and_keeps_the_extremes) {
    for (int round = 0; round < 200; ++round) {
        const int64_t maps = integer(1, 3), H = integer(1, 15), W = integer(1, 15);
        const DType dtype = any_floating();
        Array heatmap(shape_of({maps, H, W}), dtype, round % 2);
        heatmap.fill_normal();
        const Size size = any_size();
        const Normalization normalize = any_normalize();
        ResizeCall call = plan_resize(heatmap.view(), size, normalize);
        Array out = poisoned(call.result, result_dtype(dtype));
        call.out = out.view();
        cpu::resize(call);
        for (int64_t m = 0; m < maps; ++m) {
            Map map;
            double magnitude = 0;
            for (int64_t p = 0; p < H * W; ++p) map.push_back(heatmap.get(m * H * W + p));
            for (const double value : map) magnitude = std::max(magnitude, std::abs(value));
            const Map raw = resized(map, H, W, size);
            compare(out, m, raw, normalize, unit(dtype) * magnitude, "resize");
            const auto [low, high] = std::minmax_element(raw.begin(), raw.end());
            if (normalize.by != Normalize::minmax || normalize.eps != 0 || *high - *low < 1e-3) continue;
            double least = 2, most = -2;
            for (int64_t p = 0; p < size.height * size.width; ++p) {
                least = std::min(least, out.get(m * size.height * size.width + p));
                most = std::max(most, out.get(m * size.height * size.width + p));
            }
            CHECK(least == 0 && most == 1, "extremes are %g and %g", least, most);
        }
    }
}

TEST_CASE(overlay_and_colorize_agree_with_their_formulas) {
    uint8_t palette[256][3];
    for (auto& row : palette)
        for (auto& value : row) value = static_cast<uint8_t>(integer(0, 255));
    for (int round = 0; round < 100; ++round) {
        const Size size = any_size();
        const int64_t h = integer(1, 9), w = integer(1, 9);
        Array heatmap(shape_of({h, w}), any_floating(), round % 2),
            image(shape_of({size.height, size.width, 3}), DType::uint8, round % 3);
        heatmap.fill_normal();
        for (int64_t i = 0; i < size.height * size.width * 3; ++i) image.set(i, static_cast<double>(integer(0, 255)));
        if (round % 5 == 0) heatmap.set(integer(0, h * w - 1), std::numeric_limits<double>::quiet_NaN());

        ResizeCall resize = plan_resize(heatmap.view(), size, Normalize::none);
        Array values(resize.result, result_dtype(heatmap.view().dtype));
        resize.out = values.view();
        cpu::resize(resize);
        ColorizeCall colorize = plan_colorize(heatmap.view(), palette, size, Normalize::none);
        Array colours = poisoned(colorize.result, DType::uint8);
        colorize.out = colours.view();
        cpu::colorize(colorize);
        OverlayCall overlay = plan_overlay(image.view(), heatmap.view(), palette, 0.25, Normalize::none);
        Array blended = poisoned(overlay.result, DType::uint8);
        overlay.out = blended.view();
        cpu::overlay(overlay);
        for (int64_t p = 0; p < size.height * size.width; ++p) {
            const double value = values.get(p);
            for (int64_t c = 0; c < 3; ++c) {
                const double below = image.get(3 * p + c);
                if (std::isnan(value)) {
                    CHECK(colours.get(3 * p + c) == 0 && blended.get(3 * p + c) == below);
                    continue;
                }
                const double colour = palette[static_cast<int>(std::clamp(value, 0.0, 1.0) * 255 + 0.5)][c];
                CHECK(colours.get(3 * p + c) == colour);
                CHECK(blended.get(3 * p + c) == std::floor(0.75 * below + 0.25 * colour + 0.5));
            }
        }
    }
}
