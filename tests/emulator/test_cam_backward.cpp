// cam's derivative on CUDA: against finite differences of the CPU's cam in float64, and against the CPU's own.
#include <tuple>

#include "derivatives.hpp"
#include "rules.hpp"

using namespace test;

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

struct Given {
    const Array &activations, &second, &scores;
    CamSource source = CamSource::gradients;
    CamOptions options;
};
CamOptions raw_options(std::string_view method, double eps) {
    CamOptions options;
    options.method = method;
    options.relu = false;
    options.normalize = Normalize::none;
    options.weight_eps = eps;
    return options;
}

void on_cpu(const Given& given, const ArrayView& of_activations, const ArrayView& of_second) {
    cpu::cam_backward(plan_cam_backward(given.activations.view(), given.second.view(), given.source, given.options,
                                        given.scores.view(), of_activations, of_second));
}
void on_device(int device, const Given& given, const ArrayView& of_activations, const ArrayView& of_second) {
    run_on(device,
           plan_cam_backward(given.activations.view(), given.second.view(), given.source, given.options,
                             given.scores.view(), of_activations, of_second),
           cuda::cam_backward);
}

// Into arrays that are laid out at random, against the CPU's in float64; the same bits on every device and into dense
// ones.
void check_given(const Given& given, double loose, const char* what, int round) {
    const Array wide_a = widened(given.activations), wide_g = widened(given.second), scores = widened(given.scores);
    Array exact_a(wide_a.view().shape, DType::float64), exact_g(wide_g.view().shape, DType::float64);
    on_cpu({wide_a, wide_g, scores, given.source, given.options}, exact_a.view(), exact_g.view());
    const DType dtype = given.activations.view().dtype;
    const Array first_a = poisoned(exact_a.view().shape, dtype), first_g = poisoned(exact_g.view().shape, dtype);
    on_device(h100, given, first_a.view(), first_g.view());
    check_close(first_a, exact_a, loose, what, round);
    check_close(first_g, exact_g, loose, what, round);
    for (const int device : devices) {
        Array again_a(exact_a.view().shape, dtype), again_g(exact_g.view().shape, dtype);
        again_a.fill(unknown);
        again_g.fill(unknown);
        on_device(device, given, again_a.view(), again_g.view());
        CHECK(same_bits(first_a, again_a) && same_bits(first_g, again_g), "%s, device %d, round %d", what, device,
              round);
    }
}

template <class Rule>
void check_rule(int round) {
    choose_order(round);
    const bool large = round % 7 == 1;  // a block for every channel
    const int64_t N = integer(1, 2), K = integer(1, 3), C = integer(1, large || round % 3 ? 5 : 40),
                  most = round % 2 ? 18 : 4;
    const int64_t H = large ? integer(47, 53) : integer(1, most), W = large ? integer(45, 50) : integer(1, most);
    const DType dtype = any_floating();
    const Shape shape = Rule::moments == 1 ? shape_of({N, K, C, H, W}) : shape_of({Rule::moments, N, K, C, H, W});
    Array a(shape_of({N, C, H, W}), dtype, round % 2), g(shape, dtype, round % 3 == 0),
        scores(shape_of({N, K, H, W}), result_dtype(dtype));
    fill_for<Rule>(a, g);
    scores.fill_normal();
    if (round % 5 == 4)  // a channel that sums to 0
        for (int64_t p = 0; p < H * W; ++p) a.set(p, 0);
    const double eps = Rule::has_eps && round % 2 ? 0.25 : 0;
    check_given({a, g, scores, CamSource::gradients, raw_options(Rule::name, eps)}, 100, Rule::name.data(), round);
}

// What sum(scores * cam) is in float64.
double counted(const Given& given) {
    CamCall call = plan_cam(given.activations.view(), given.second.view(), given.source, given.options);
    Array out(call.result, DType::float64);
    call.out = out.view();
    cpu::cam(call);
    double sum = 0;
    for (int64_t i = 0; i < call.result.count(); ++i) sum += given.scores.get(i) * out.get(i);
    return sum;
}

template <class Rule>
void check_differences(int round) {
    const int64_t N = 1 + round % 2, K = 2, C = 3, H = integer(1, 3), W = integer(1, 4);
    const Shape shape = Rule::moments == 1 ? shape_of({N, K, C, H, W}) : shape_of({Rule::moments, N, K, C, H, W});
    Array a(shape_of({N, C, H, W}), DType::float64), g(shape, DType::float64),
        scores(shape_of({N, K, H, W}), DType::float64);
    fill_for<Rule>(a, g);
    scores.fill_normal();
    for (int64_t i = 0; i < shape.count(); ++i)  // away from the kink of a ReLU
        if (std::abs(g.get(i)) < 0.01) g.set(i, 0.5);
    for (int64_t i = 0; i < a.view().shape.count(); ++i)
        if (std::abs(a.get(i)) < 0.01) a.set(i, 0.5);
    const Given given{a, g, scores, CamSource::gradients,
                      raw_options(Rule::name, Rule::has_eps && round % 2 ? 0.25 : 0)};
    const Array got_a = poisoned(a.view().shape, DType::float64), got_g = poisoned(shape, DType::float64);
    on_device(h100, given, got_a.view(), got_g.view());
    const double loose = 1e-6 / unit(DType::float64);
    check_close(got_a, differences(a, [&] { return counted(given); }), loose, Rule::name.data(), round);
    check_close(got_g, differences(g, [&] { return counted(given); }), loose, Rule::name.data(), round);
}

}  // namespace

TEST_CASE(derivatives_of_all_rules_agree_with_the_cpus) {
    begin();
    std::apply(
        [](auto... rule) {
            for (int round = 0; round < rounds(20); ++round) (check_rule<decltype(rule)>(round), ...);
        },
        rules::All{});
}

TEST_CASE(derivatives_of_all_rules_are_finite_differences) {
    if (thread_sanitizer) return;  // one thread a pixel, as above
    begin();
    std::apply(
        [](auto... rule) {
            for (int round = 0; round < rounds(4); ++round) (check_differences<decltype(rule)>(round), ...);
        },
        rules::All{});
}

// Up to 16384 pixels a block adds a channel up, beyond them several share it, and the last part may be shorter.
TEST_CASE(large_channels_are_added_up_in_parts) {
    if (thread_sanitizer) return;
    begin();
    int round = 0;
    for (const Size& size : {Size{128, 128}, Size{145, 113}, Size{331, 151}}) {
        const auto check = [&](auto rule) {
            using Rule = decltype(rule);
            choose_order(++round);
            const int64_t parts = size.height * size.width / 16384 + (size.height == 128 ? 0 : 1), K = integer(1, 2),
                          N = size.height == 145 ? 2 : 1;
            const DType dtype = any_floating();
            Shape g_shape = shape_of({N, K, 2, size.height, size.width});
            if (Rule::moments > 1) g_shape = shape_of({Rule::moments, N, K, 2, size.height, size.width});
            Array a(shape_of({N, 2, size.height, size.width}), dtype, round % 2), g(g_shape, dtype, round % 3 == 0),
                scores(shape_of({N, K, size.height, size.width}), result_dtype(dtype));
            fill_for<Rule>(a, g);
            scores.fill_normal();
            const CamOptions options = raw_options(Rule::name, Rule::has_eps ? 0.25 : 0);
            const Counts before = fake.counts;
            check_given({a, g, scores, CamSource::gradients, options}, 100, Rule::name.data(), round);
            const int64_t launches = !Rule::weights ? 1 : parts == 1 ? 2 : Rule::sums_activations ? 4 : 3;
            const int64_t calls = static_cast<int64_t>(devices.size()) + 1;
            CHECK(fake.counts.launches - before.launches == calls * launches, "%s, %d parts", Rule::name.data(),
                  int(parts));
        };
        std::apply([&](auto... rule) { (check(rule), ...); }, rules::All{});
    }
    Array a(shape_of({1, 20, 129, 130}), DType::float32), w(shape_of({1, 2, 20}), DType::float32),
        scores(shape_of({1, 2, 129, 130}), DType::float32);
    for (Array* array : {&a, &w, &scores}) array->fill_normal();
    check_given({a, w, scores, CamSource::weights, raw_options("gradcam", 0)}, 100, "weights", 0);
}

TEST_CASE(derivatives_of_any_rank_and_layout) {
    begin();
    for (int round = 0; round < rounds(30); ++round) {
        choose_order(round);
        const int64_t N = integer(1, 2), K = integer(1, 2), C = integer(1, 6), spatial = round % 3 + 1;
        const bool last = round % 2;
        Shape extents = shape_of({}), a_shape = shape_of({N}), g_shape = shape_of({N, K}), maps = shape_of({N, K});
        for (int64_t axis = 0; axis < spatial; ++axis) extents.append(integer(1, spatial == 1 ? 300 : 7));
        for (Shape* shape : {&a_shape, &g_shape}) {
            if (!last) shape->append(C);
            for (int64_t axis = 0; axis < spatial; ++axis) shape->append(extents.extent[axis]);
            if (last) shape->append(C);
        }
        for (int64_t axis = 0; axis < spatial; ++axis) maps.append(extents.extent[axis]);
        const DType dtype = any_floating();
        Array a(a_shape, dtype, round % 5 == 0), g(g_shape, dtype, round % 7 == 0), scores(maps, result_dtype(dtype));
        for (Array* array : {&a, &g, &scores}) array->fill_normal();
        CamOptions options = raw_options(round % 4 ? "hirescam" : "gradcam+", 0);
        options.layout.spatial = spatial;
        options.layout.channels_last = last;
        check_given({a, g, scores, CamSource::gradients, options}, 50, "layout", round);
    }
}

TEST_CASE(tokens_beside_the_grid_are_not_written) {
    begin();
    const int64_t H = 3, W = 4, C = 5, extra = 2;
    Array a(shape_of({2, extra + H * W, C}), DType::float32), scores(shape_of({2, H, W}), DType::float32);
    Array g(a.view().shape, DType::float32), wanted_a(a.view().shape, DType::float32),
        wanted_g(a.view().shape, DType::float32), got_a(a.view().shape, DType::float32),
        got_g(a.view().shape, DType::float32);
    for (Array* array : {&a, &g, &scores}) array->fill_normal();
    for (Array* array : {&wanted_a, &wanted_g, &got_a, &got_g}) array->fill(unknown);
    CamOptions options = raw_options("layercam", 0);
    options.layout.tokens = Extents{2, {H, W}};
    const Given given{a, g, scores, CamSource::gradients, options};
    on_cpu(given, wanted_a.view(), wanted_g.view());
    on_device(h100, given, got_a.view(), got_g.view());
    check_close(got_a, wanted_a, 1, "tokens", 0);
    check_close(got_g, wanted_g, 1, "tokens", 0);
    CHECK(std::isnan(got_a.get(0)) && !std::isnan(got_a.get(extra * C)), "the first two tokens stay");
}

TEST_CASE(what_is_the_same_for_all_pixels_is_written_once) {
    begin();
    for (int round = 0; round < rounds(12); ++round) {
        choose_order(round);
        const int64_t N = 2, K = integer(1, 3), C = integer(1, 40), H = integer(1, 9), W = integer(1, 9);
        const DType dtype = any_floating();
        Array a(shape_of({N, C, H, W}), dtype, round % 2), g(shape_of({N, K, C, H, W}), dtype),
            w(shape_of({N, K, C}), dtype, round % 2), scores(shape_of({N, K, H, W}), result_dtype(dtype));
        for (Array* array : {&a, &g, &w, &scores}) array->fill_normal();
        const CamOptions options = raw_options("gradcam", 0);
        check_given({a, w, scores, CamSource::weights, options}, 50, "weights", round);
        const Given given{a, g, scores, CamSource::gradients, options};
        const Array every_a = poisoned(a.view().shape, dtype), every = poisoned(g.view().shape, dtype),
                    once_a = poisoned(a.view().shape, dtype), once = poisoned(w.view().shape, dtype);
        on_device(h100, given, every_a.view(), every.view());
        ArrayView expanded = once.view();
        expanded.insert_axis(3, H, 0);
        expanded.insert_axis(4, W, 0);
        on_device(t4, given, once_a.view(), expanded);
        CHECK(same_bits(once_a, every_a), "round %d", round);
        for (int64_t i = 0; i < g.view().shape.count(); ++i)
            CHECK(every.get(i) == once.get(i / (H * W)), "round %d: %g, once %g", round, every.get(i),
                  once.get(i / (H * W)));
    }
}

TEST_CASE(without_classes_activations_change_nothing) {
    begin();
    Array a(shape_of({2, 3, 4, 4}), DType::float32), g(shape_of({2, 0, 3, 4, 4}), DType::float32),
        scores(shape_of({2, 0, 4, 4}), DType::float32);
    for (const char* method : {"gradcam", "hirescam"}) {
        const Array got = poisoned(a.view().shape, DType::float32), wanted = poisoned(a.view().shape, DType::float32);
        const Given given{a, g, scores, CamSource::gradients, raw_options(method, 0)};
        on_device(h100, given, got.view(), g.view());
        on_cpu(given, wanted.view(), g.view());
        for (int64_t i = 0; i < a.view().shape.count(); ++i) CHECK(got.get(i) == 0 && wanted.get(i) == 0, "%s", method);
    }
}
