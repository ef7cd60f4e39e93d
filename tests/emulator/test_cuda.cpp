// CUDA's kernels and launchers, run by the emulator on each of its devices: against float64, against the CPU's bits
// where the arithmetic is the same, and against each other, whose bits are the same.
#include <array>

#include "launches.hpp"

using namespace fusedcam;
using namespace test;
using namespace fusedcam::cuda::emulator;

namespace {

struct Inputs {
    Array activations, second;
    bool by_weights;

    Inputs(int64_t N, int64_t K, int64_t C, int64_t H, int64_t W, DType dtype, bool weights, bool a, bool b)
        : activations(shape_of({N, C, H, W}), dtype, a),
          second(weights ? shape_of({N, K, C}) : shape_of({N, K, C, H, W}), dtype, b),
          by_weights(weights) {
        activations.fill_normal();
        second.fill_normal();
    }
    CamCall plan(const CamOptions& options) const {
        return plan_cam(activations.view(), second.view(), by_weights ? CamSource::weights : CamSource::gradients,
                        options);
    }
};

}  // namespace

TEST_CASE(cam_agrees_with_float64_and_its_bits_with_every_device) {
    begin();
    for (int round = 0; round < rounds(60); ++round) {
        choose_order(round);
        const int64_t C = integer(1, round % 6 ? 40 : 700), most = round % 5 ? 9 : 24;
        const Inputs in(integer(1, 3), integer(1, 3), C, integer(1, most), integer(1, most), any_floating(),
                        integer(0, 3) == 0, round % 2, round % 3 == 0);
        CamOptions options;
        options.relu = integer(0, 1);
        options.normalize = any_normalize();
        if (integer(0, 1)) options.size = any_size();
        CamCall call = in.plan(options);
        const DType dtype = result_dtype(in.activations.view().dtype);
        Array first = poisoned(call.result, dtype);
        call.out = first.view();
        run_on(h100, call, cuda::cam);
        compare_cam(call, in.activations, in.second, in.by_weights, first);
        for (const int device : devices) {
            Array other = poisoned(call.result, dtype);
            call.out = other.view();
            run_on(device, call, cuda::cam);
            CHECK(same_bits(first, other), "device %d, round %d", device, round);
        }
    }
}

// Maps of every way into shared memory, and past it; tiles that end within a block of channels and with it; extremes
// that every block finds and that a cluster shares.
TEST_CASE(many_channels_in_one_launch) {
    begin();
    const std::array<std::array<int64_t, 5>, 11> shapes{{{2048, 7, 7, 37, 64},
                                                         {512, 14, 14, 37, 64},
                                                         {256, 28, 28, 60, 64},
                                                         {3000, 1, 1, 5, 3},
                                                         {320, 33, 33, 70, 80},
                                                         {17, 33, 33, 70, 80},
                                                         {100, 32, 32, 32, 32},
                                                         {40, 34, 34, 30, 32},
                                                         {77, 31, 31, 90, 37},
                                                         {1000, 5, 5, 10, 12},
                                                         {130, 2, 2, 64, 64}}};
    for (const auto& [C, H, W, height, width] : shapes)
        for (const DType dtype : {DType::float32, DType::float16, DType::float64}) {
            if (thread_sanitizer && ((C != 512 && C != 17) || dtype != DType::float32)) continue;
            Inputs in(1, 1, C, H, W, dtype, false, dtype == DType::float16, false);
            // The extremes are the first's and the last's to find, whichever is which.
            in.activations.set(0, -1000);
            in.activations.set(H * W - 1, 1000);
            CamOptions options;
            options.relu = false;
            options.size = Size{height, width};
            CamCall call = in.plan(options);
            Array first = poisoned(call.result, result_dtype(dtype));
            call.out = first.view();
            choose_order(static_cast<int>(C));
            const int before = fake.counts.launches;
            run_on(h100, call, cuda::cam);
            CHECK(fake.counts.launches == before + 1, "%d launches", fake.counts.launches - before);
            compare_cam(call, in.activations, in.second, false, first);
            for (const int device : {h200_with_old_image, t4}) {
                Array other = poisoned(call.result, result_dtype(dtype));
                call.out = other.view();
                const int launched = fake.counts.launches;
                run_on(device, call, cuda::cam);
                CHECK(fake.counts.launches == launched + 2, "%d launches", fake.counts.launches - launched);
                CHECK(same_bits(first, other), "device %d", device);
            }
        }
}

TEST_CASE(an_images_bits_do_not_depend_on_its_batch) {
    begin();
    const int64_t N = thread_sanitizer ? 3 : 300, C = 130, H = 3,
                  W = 5;  // so many images that each gets a cluster of one block
    const Inputs in(N, 1, C, H, W, DType::float32, false, false, false);
    CamCall all = in.plan({});
    Array out = poisoned(all.result, DType::float32);
    all.out = out.view();
    run_on(h100, all, cuda::cam);
    for (const int64_t n : {int64_t{0}, N / 2, N - 1}) {
        CamCall one = plan_cam(in.activations.view().sub(n, 3), in.second.view().sub(n, 4), CamSource::gradients, {});
        Array alone = poisoned(one.result, DType::float32);
        one.out = alone.view();
        run_on(h100, one, cuda::cam);
        for (int64_t p = 0; p < H * W; ++p) CHECK(alone.get(p) == out.get(n * H * W + p), "image %d", int(n));
    }
}

TEST_CASE(maps_that_no_block_can_hold) {
    begin();
    for (const Normalize normalize : {Normalize::minmax, Normalize::max, Normalize::none}) {
        if (thread_sanitizer && normalize != Normalize::minmax) continue;
        const int64_t N = thread_sanitizer ? 1 : 2, C = thread_sanitizer ? 1 : 3, H = thread_sanitizer ? 112 : 190,
                      W = thread_sanitizer ? 111 : 170;
        const Inputs in(N, 1, C, H, W, DType::float32, false, false, false);
        CamOptions options;
        options.normalize = normalize;
        options.size = thread_sanitizer ? Size{20, 20} : Size{61, 200};
        CamCall call = in.plan(options);
        for (const int device : {h100, t4}) {
            if (thread_sanitizer && device != t4) continue;
            Array out = poisoned(call.result, DType::float32);
            call.out = out.view();
            run_on(device, call, cuda::cam);
            compare_cam(call, in.activations, in.second, false, out);
        }
        if (thread_sanitizer) continue;
        ResizeCall resize = plan_resize(in.activations.view(), {50, 181}, normalize);
        Array got = poisoned(resize.result, DType::float32), wanted(resize.result, DType::float32);
        resize.out = wanted.view();
        cpu::resize(resize);
        resize.out = got.view();
        run_on(a100, resize, cuda::resize);
        CHECK(same_bits(got, wanted));
    }
}

TEST_CASE(resize_has_the_cpus_bits) {
    begin();
    for (int round = 0; round < rounds(120); ++round) {
        choose_order(round);
        const DType dtype = any_floating();
        Array heatmap(shape_of({integer(1, 3), integer(1, 2), integer(1, 15), integer(1, 15)}), dtype, round % 2);
        heatmap.fill_normal();
        if (round % 7 == 0) heatmap.set(0, std::numeric_limits<double>::quiet_NaN());
        if (round % 11 == 0) heatmap.fill(integer(-1, 1));
        ResizeCall call = plan_resize(heatmap.view(), any_size(), any_normalize());
        Array wanted = poisoned(call.result, result_dtype(dtype)), got = poisoned(call.result, result_dtype(dtype));
        call.out = wanted.view();
        cpu::resize(call);
        call.out = got.view();
        run_on(devices[static_cast<size_t>(round) % devices.size()], call, cuda::resize);
        for (int64_t i = 0; i < got.view().shape.count(); ++i)
            CHECK(got.get(i) == wanted.get(i) || (std::isnan(got.get(i)) && std::isnan(wanted.get(i))), "round %d",
                  round);
    }
}

TEST_CASE(pictures_have_the_cpus_bits) {
    begin();
    uint8_t palette[256][3];
    for (auto& row : palette)
        for (auto& value : row) value = static_cast<uint8_t>(integer(0, 255));
    for (int round = 0; round < rounds(80); ++round) {
        choose_order(round);
        const Size size = any_size();
        const int64_t N = integer(1, 3), colours = round % 4 ? 3 : 1;
        const DType kind = round % 3 ? DType::uint8 : any_floating();
        Array heatmap(shape_of({N, integer(1, 9), integer(1, 9)}), any_floating(), round % 2),
            image(shape_of({N, size.height, size.width, colours}), kind, round % 5 == 0);
        heatmap.fill_normal();
        if (round % 6 == 0) heatmap.set(0, std::numeric_limits<double>::quiet_NaN());
        for (int64_t i = 0; i < image.view().shape.count(); ++i)
            image.set(i, kind == DType::uint8 ? static_cast<double>(integer(0, 255)) : normal());
        const int device = devices[static_cast<size_t>(round) % devices.size()];

        OverlayCall overlay = plan_overlay(image.view(), heatmap.view(), palette, 0.3, any_normalize().by);
        Array wanted(overlay.result, DType::uint8, round % 2), got(overlay.result, DType::uint8, round % 3 == 1);
        got.fill(77);
        overlay.out = wanted.view();
        cpu::overlay(overlay);
        overlay.out = got.view();
        run_on(device, overlay, cuda::overlay);
        CHECK(same_bits(got, wanted), "overlay, round %d", round);

        ColorizeCall colorize = plan_colorize(heatmap.view(), palette, size, any_normalize().by);
        Array colour(colorize.result, DType::uint8), other(colorize.result, DType::uint8, round % 2);
        other.fill(77);
        colorize.out = colour.view();
        cpu::colorize(colorize);
        colorize.out = other.view();
        run_on(device, colorize, cuda::colorize);
        CHECK(same_bits(other, colour), "colorize, round %d", round);
    }
}

TEST_CASE(cam_with_a_size_is_resize_of_cam) {
    begin();
    for (const int device : devices) {
        const Inputs in(2, 2, 20, 7, 6, DType::float32, false, true, true);
        CamOptions options;
        options.size = Size{29, 31};
        CamCall whole = in.plan(options);
        options.size.reset();
        options.normalize = Normalize::none;
        CamCall raw = in.plan(options);
        Array scores = poisoned(raw.result, DType::float32), wanted = poisoned(whole.result, DType::float32),
              got = poisoned(whole.result, DType::float32);
        raw.out = scores.view();
        run_on(device, raw, cuda::cam);
        ResizeCall resize = plan_resize(scores.view(), {29, 31}, Normalize::minmax);
        resize.out = wanted.view();
        run_on(device, resize, cuda::resize);
        whole.out = got.view();
        run_on(device, whole, cuda::cam);
        CHECK(same_bits(got, wanted));
    }
}

TEST_CASE(what_is_not_finite) {
    begin();
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    for (const int device :
         thread_sanitizer ? std::vector<int>{h100} : std::vector<int>(devices.begin(), devices.end()))
        for (const double bad : {nan, infinity, -infinity}) {
            Inputs in(3, 1, 9, 4, 5, DType::float32, false, false, false);
            in.activations.set(9 * 20 + 3, bad);  // channel 0, pixel 3 of the second image
            CamOptions options;
            options.relu = false;
            options.normalize = Normalize::none;
            CamCall call = in.plan(options);
            Array scores = poisoned(call.result, DType::float32);
            call.out = scores.view();
            run_on(device, call, cuda::cam);
            for (int64_t i = 0; i < 60; ++i) CHECK(std::isfinite(scores.get(i)) == (i != 23), "pixel %d", int(i));
            call.options.nan = NanPolicy::zero;
            run_on(device, call, cuda::cam);
            for (int64_t i = 0; i < 60; ++i) CHECK(i == 23 ? scores.get(i) == 0 : std::isfinite(scores.get(i)));
            call.options.nan = NanPolicy::raise;
            CHECK(refusal([&] { run_on(device, call, cuda::cam); }).find("hold NaN or infinity") != std::string::npos);
            fake.capturing = true;
            CHECK(refusal([&] { run_on(device, call, cuda::cam); }).find("CUDA graph") != std::string::npos);
            fake.capturing = false;
            in.activations.set(9 * 20 + 3, 0);
            CHECK(refusal([&] { run_on(device, call, cuda::cam); }).empty());
        }
}

TEST_CASE(work_on_another_stream_is_waited_for) {
    begin();
    const auto stream = [](uintptr_t number) { return reinterpret_cast<void*>(number); };
    cuda::follow({h100, stream(1), nullptr}, stream(1));
    CHECK(fake.followed.empty());
    cuda::follow({a100, stream(1), nullptr}, stream(2));
    CHECK(fake.followed.size() == 1 && fake.followed[0].first == stream(2) && fake.followed[0].second == stream(1));
    CHECK(fake.device == h100 && fake.counts.synchronizations == 0);
}

TEST_CASE(which_code_runs_on_which_device) {
    const char* all = "75-real;80-real;90-real;100-real;120";
    for (const int capability : {75, 80, 86, 89, 90, 100, 103, 120, 121, 130}) CHECK(cuda::runs(all, capability));
    for (const int capability : {60, 70, 72, 110}) CHECK(!cuda::runs(all, capability), "%d", capability);
    CHECK(cuda::runs("90-real", 90) && !cuda::runs("90-real", 80) && !cuda::runs("90-real", 100));
    CHECK(!cuda::runs("89-real", 86) && cuda::runs("90-virtual", 110) && !cuda::runs("90-virtual", 89));
    CHECK(cuda::runs("90a-real", 90) && cuda::runs("native", 75) && !cuda::runs("", 90));
}

TEST_CASE(failures_are_reported_in_words) {
    begin();
    const Inputs in(1, 1, 4, 3, 3, DType::float32, false, false, false);
    CamCall call = in.plan({});
    Array out = poisoned(call.result, DType::float32);
    call.out = out.view();
    CHECK(cuda::unavailable().empty());
    fake.launch_error = cudaErrorLaunchFailure;
    CHECK(refusal([&] { run_on(h100, call, cuda::cam); }).find("starting a kernel failed: cudaErrorLaunchFailure") !=
          std::string::npos);
    CHECK(fake.last == cudaSuccess, "the error was left for others");
    fake.launch_error = cudaSuccess;
    fake.driver = cudaErrorInsufficientDriver;
    CHECK(cuda::unavailable().find("cudaErrorInsufficientDriver") == 0);
    reset();
}
