// Every rule on CUDA, staged and where channels lie, in any layout, against the CPU's in float64.
#include <tuple>

#include "calls.hpp"
#include "rules.hpp"

using namespace test;

namespace {

template <class Rule>
void check_round(int round) {
    choose_order(round);
    const int64_t N = integer(1, 2), K = integer(1, 3), C = integer(1, round % 6 ? 40 : 300), most = round % 4 ? 9 : 40,
                  H = integer(1, most), W = integer(1, most);
    const DType dtype = any_floating();
    const Shape shape = Rule::moments == 1 ? shape_of({N, K, C, H, W}) : shape_of({Rule::moments, N, K, C, H, W});
    Array a(shape_of({N, C, H, W}), dtype, round % 2), g(shape, dtype, round % 3 == 0);
    fill_for<Rule>(a, g);
    const Array wide_a = widened(a), wide_g = widened(g);
    CamOptions options;
    options.method = Rule::name;
    options.relu = false;
    options.normalize = Normalize::none;
    options.weight_eps = Rule::has_eps && round % 2 ? 0.25 : 0;
    CamCall call = plan_cam(a.view(), g.view(), CamSource::gradients, options),
            wide = plan_cam(wide_a.view(), wide_g.view(), CamSource::gradients, options);
    Array got = poisoned(call.result, result_dtype(dtype)), exact(wide.result, DType::float64);
    call.out = got.view();
    run_on(h100, call, cuda::cam);
    wide.out = exact.view();
    cpu::cam(wide);
    for (int64_t map = 0; map < N * K; ++map) {
        double largest = 0;
        for (int64_t p = 0; p < H * W; ++p) largest = std::max(largest, std::abs(exact.get(map * H * W + p)));
        // Gradients of either sign may leave a hundredth of themselves.
        const double allowed = 100 * unit(dtype) * (largest + 1e-3);
        for (int64_t i = map * H * W; i < (map + 1) * H * W; ++i)
            CHECK(std::abs(got.get(i) - exact.get(i)) <= allowed, "%s, round %d: %g, expected %g", Rule::name.data(),
                  round, got.get(i), exact.get(i));
    }
    for (const int device : devices) {
        Array other = poisoned(call.result, result_dtype(dtype));
        call.out = other.view();
        run_on(device, call, cuda::cam);
        CHECK(same_bits(got, other), "%s, device %d, round %d", Rule::name.data(), device, round);
    }
}

}  // namespace

TEST_CASE(all_rules_agree_with_the_cpus) {
    begin();
    std::apply(
        [](auto... rule) {
            for (int round = 0; round < rounds(14); ++round) (check_round<decltype(rule)>(round), ...);
        },
        rules::All{});
}

// Of three moments and the activations, in the widest type, on the device with the least shared memory.
TEST_CASE(moments_of_large_maps_fit_every_device) {
    begin();
    for (const int64_t side : {22, 23, 32}) {
        Array a(shape_of({1, 3, side, side}), DType::float64), g(shape_of({3, 1, 1, 3, side, side}), DType::float64);
        a.fill(1);
        g.fill(1);
        CamOptions options;
        options.method = rules::SmoothGradCamPlusPlus::name;
        options.normalize = Normalize::none;
        CamCall call = plan_cam(a.view(), g.view(), CamSource::gradients, options);
        const double pixels = static_cast<double>(side * side);
        for (const int device : devices) {
            Array got = poisoned(call.result, DType::float64);
            call.out = got.view();
            run_on(device, call, cuda::cam);
            for (int64_t i = 0; i < side * side; ++i)
                CHECK(std::abs(got.get(i) - 3 * pixels / (2 + pixels)) < 1e-12, "device %d, side %d", device,
                      int(side));
        }
    }
}
