// Signals, volumes, tokens and several layers on CUDA: volumes by the CPU's bits where the arithmetic is the same, else
// by its float64.
#include "calls.hpp"

using namespace test;

namespace {

constexpr Normalize modes[] = {Normalize::none, Normalize::minmax, Normalize::max};

Size any_volume() { return {integer(1, 9), integer(1, 9), integer(1, 7)}; }

}  // namespace

TEST_CASE(resized_volumes_have_the_cpus_bits) {
    begin();
    for (int round = 0; round < rounds(40); ++round) {
        choose_order(round);
        const int64_t maps = integer(1, 3);
        Array volume(shape_of({maps, integer(1, 6), integer(1, 7), integer(1, 7)}), any_floating(), round % 2);
        volume.fill_normal();
        if (round % 7 == 0) volume.set(0, std::numeric_limits<double>::quiet_NaN());
        ResizeCall call = plan_resize(volume.view(), any_volume(), any_normalize(), 3);
        Array on_cpu = poisoned(call.result, result_dtype(volume.view().dtype));
        call.out = on_cpu.view();
        cpu::resize(call);
        for (const int device : devices) {
            Array on_cuda = poisoned(call.result, result_dtype(volume.view().dtype));
            call.out = on_cuda.view();
            run_on(device, call, cuda::resize);
            for (int64_t i = 0; i < on_cpu.view().shape.count(); ++i)
                CHECK(on_cpu.get(i) == on_cuda.get(i) || (std::isnan(on_cpu.get(i)) && std::isnan(on_cuda.get(i))),
                      "device %d, round %d: %g, expected %g", device, round, on_cuda.get(i), on_cpu.get(i));
        }
    }
}

TEST_CASE(cam_of_any_rank_agrees_with_the_cpus) {
    begin();
    for (int round = 0; round < rounds(60); ++round) {
        choose_order(round);
        const int64_t spatial = round % 3 + 1, N = integer(1, 2), K = integer(1, 2), C = integer(1, 40);
        Shape a_shape = shape_of({N, C}), g_shape = shape_of({N, K, C});
        for (int64_t axis = 0; axis < spatial; ++axis) {
            const int64_t extent = integer(1, spatial == 1 ? 1200 : spatial == 2 ? 12 : 8);
            a_shape.append(extent);
            g_shape.append(extent);
        }
        const DType dtype = any_floating();
        Array a(a_shape, dtype, round % 2), g(g_shape, dtype, round % 4 == 0), wide_a(a_shape, DType::float64),
            wide_g(g_shape, DType::float64);
        a.fill_normal();
        g.fill_normal();
        for (int64_t i = 0; i < a_shape.count(); ++i) wide_a.set(i, a.get(i));
        for (int64_t i = 0; i < g_shape.count(); ++i) wide_g.set(i, g.get(i));
        CamOptions options;
        options.layout.spatial = spatial;
        options.method = round % 2 ? "hirescam" : "gradcam";
        options.relu = false;
        options.normalize = round % 5 ? Normalize::none : modes[integer(0, 2)];
        if (integer(0, 1)) options.size = size_of({0, {integer(1, 11)}}, spatial);
        CamCall call = plan_cam(a.view(), g.view(), CamSource::gradients, options),
                wide = plan_cam(wide_a.view(), wide_g.view(), CamSource::gradients, options);
        Array got = poisoned(call.result, result_dtype(dtype)), exact(wide.result, DType::float64);
        call.out = got.view();
        run_on(h100, call, cuda::cam);
        wide.out = exact.view();
        cpu::cam(wide);
        double largest = 1e-3;
        for (int64_t i = 0; i < exact.view().shape.count(); ++i) largest = std::max(largest, std::abs(exact.get(i)));
        // A map's range may be a hundredth of what was summed.
        for (int64_t i = 0; i < exact.view().shape.count(); ++i)
            CHECK(std::abs(got.get(i) - exact.get(i)) <= 500 * unit(dtype) * largest, "spatial %d, round %d: %g for %g",
                  int(spatial), round, got.get(i), exact.get(i));
        for (const int device : devices) {
            Array other = poisoned(call.result, result_dtype(dtype));
            call.out = other.view();
            run_on(device, call, cuda::cam);
            CHECK(same_bits(got, other), "device %d, round %d", device, round);
        }
    }
}

TEST_CASE(tokens_are_maps_with_channels_last) {
    begin();
    for (int round = 0; round < rounds(10); ++round) {
        choose_order(round);
        const int64_t N = integer(1, 2), C = integer(1, 30), H = integer(1, 6), W = integer(1, 6),
                      skipped = integer(0, 5), T = H * W + skipped;
        Array a(shape_of({N, T, C}), DType::float32, round % 2), g(shape_of({N, T, C}), DType::float32, round % 3 == 0);
        a.fill_normal();
        g.fill_normal();
        Array a_maps(shape_of({N, C, H, W}), DType::float32), g_maps(shape_of({N, C, H, W}), DType::float32);
        for (int64_t n = 0; n < N; ++n)
            for (int64_t t = 0; t < H * W; ++t)
                for (int64_t c = 0; c < C; ++c) {
                    const int64_t from = (n * T + skipped + t) * C + c, to = (n * C + c) * H * W + t;
                    a_maps.set(to, a.get(from));
                    g_maps.set(to, g.get(from));
                }
        CamOptions options, by_tokens;
        by_tokens.layout.tokens = Extents{2, {H, W}};
        options.size = by_tokens.size = Size{9, 8};
        CamCall maps = plan_cam(a_maps.view(), g_maps.view(), CamSource::gradients, options),
                tokens = plan_cam(a.view(), g.view(), CamSource::gradients, by_tokens);
        Array expected = poisoned(maps.result, DType::float32), got = poisoned(tokens.result, DType::float32);
        maps.out = expected.view();
        tokens.out = got.view();
        run_on(h100, maps, cuda::cam);
        run_on(h100, tokens, cuda::cam);
        CHECK(same_bits(expected, got), "round %d", round);
    }
}

TEST_CASE(layers_are_fused_to_the_cpus_bits) {
    begin();
    for (int round = 0; round < rounds(30); ++round) {
        choose_order(round);
        const int64_t spatial = round % 3 + 1, maps = integer(1, 3);
        const DType dtype = round % 2 ? DType::float32 : DType::float64;
        std::vector<Array> layers;
        std::vector<ArrayView> views;
        const int count = static_cast<int>(integer(1, 4));
        for (int i = 0; i < count; ++i) {
            Shape shape = shape_of({maps});
            for (int64_t axis = 0; axis < spatial; ++axis) shape.append(integer(1, 7));
            layers.emplace_back(shape, dtype, round % 4 == 0);
            layers.back().fill_normal();
        }
        for (const Array& layer : layers) views.push_back(layer.view());
        std::optional<Size> size;
        if (integer(0, 1)) size = size_of({0, {integer(1, 11)}}, spatial);
        FuseCall call =
            plan_fuse(views.data(), count, static_cast<Fuse>(integer(0, 2)), size, any_normalize(), spatial);
        Array on_cpu = poisoned(call.result, dtype);
        call.out = on_cpu.view();
        cpu::fuse(call);
        for (const int device : devices) {
            Array on_cuda = poisoned(call.result, dtype);
            call.out = on_cuda.view();
            run_on(device, call, cuda::fuse);
            CHECK(same_bits(on_cpu, on_cuda), "device %d, round %d", device, round);
        }
    }
}
