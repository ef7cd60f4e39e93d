// The small numeric parts: sampling coordinates, half types, extremes and rescaling.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "check.hpp"
#include "cpu/threads.hpp"
#include "dtype.hpp"
#include "sampling.hpp"

using namespace fusedcam;
using test::integer;

TEST_CASE(taps_are_half_pixel_centres_with_clamped_edges) {
    for (int round = 0; round < 20000; ++round) {
        const int64_t in = integer(1, 300), out = integer(1, 300), x = integer(0, out - 1);
        const Tap<double> got = tap<double>(x, in, out);
        const long double exact =
            (static_cast<long double>(x) + 0.5L) * static_cast<long double>(in) / static_cast<long double>(out) - 0.5L;
        const long double clamped = std::fmin(std::fmax(exact, 0.0L), static_cast<long double>(in - 1));
        CHECK(got.low >= 0 && got.low <= got.high && got.high < in && got.high <= got.low + 1);
        CHECK(got.weight >= 0 && got.weight < 1 && (got.weight > 0) == (got.high > got.low));
        CHECK(std::fabs(static_cast<long double>(got.low) + got.weight - clamped) < 1e-13L, "in %d out %d x %d",
              static_cast<int>(in), static_cast<int>(out), static_cast<int>(x));
    }
    const int64_t most = (int64_t{1} << 31) - 1;  // the largest extents that are let in
    CHECK(tap<float>(most - 1, most, most).low == most - 1);
    CHECK(tap<float>(most - 1, 1, most).high == 0);
    CHECK(tap<float>(0, most, 1).low == most / 2);
}

TEST_CASE(every_half_widens_exactly) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const int exponent = static_cast<int>(bits >> 10 & 31);
        const double fraction = (bits & 1023) / 1024.0, sign = bits & 0x8000 ? -1 : 1;
        const float got = widen(Float16{static_cast<uint16_t>(bits)});
        if (exponent == 31 && (bits & 1023))
            CHECK(std::isnan(got));
        else if (exponent == 31)
            CHECK(got == sign * std::numeric_limits<double>::infinity());
        else
            CHECK(got == sign * (exponent ? std::ldexp(1 + fraction, exponent - 15) : std::ldexp(fraction, -14)) &&
                      std::signbit(got) == (sign < 0),
                  "bits %x", bits);
    }
}

TEST_CASE(a_weight_of_zero_never_touches_the_neighbour) {
    const float infinity = std::numeric_limits<float>::infinity();
    CHECK(lerp(1.0f, infinity, 0.0f) == 1.0f);
    CHECK(lerp(2.0f, 2.0f, 0.3f) == 2.0f);
}

TEST_CASE(extremes_keep_a_nan_wherever_it_comes) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (int place = 0; place < 3; ++place) {
        Extremes<double> range;
        for (int i = 0; i < 3; ++i) range.add(i == place ? nan : i);
        CHECK(std::isnan(range.low) && std::isnan(range.high));
    }
}

TEST_CASE(rescaling_hits_both_ends_and_flat_maps_become_zero) {
    for (int round = 0; round < 20000; ++round) {
        Extremes<float> range;
        range.add(static_cast<float>(test::normal() * std::pow(10.0, test::normal() * 5)));
        range.add(static_cast<float>(test::normal() * std::pow(10.0, test::normal() * 5)));
        if (!(range.high > range.low)) continue;
        const Rescale<float> minmax(Normalize::minmax, range);
        CHECK(minmax(range.low) == 0.0f && minmax(range.high) == 1.0f);
        if (range.high > 0) CHECK(Rescale<float>(Normalize::max, range)(range.high) == 1.0f);
    }
    Extremes<float> flat;
    flat.add(3.0f);
    CHECK(Rescale<float>(Normalize::minmax, flat).constant && Rescale<float>(Normalize::minmax, flat).fill == 0.0f);
    Extremes<float> negative;
    negative.add(-3.0f);
    negative.add(-1.0f);
    CHECK(Rescale<float>(Normalize::max, negative).constant && Rescale<float>(Normalize::max, negative).fill == 0.0f);
}

TEST_CASE(an_eps_is_added_to_the_divisor) {
    for (int round = 0; round < 2000; ++round) {
        Extremes<float> range;
        for (int i = 0; i < 2; ++i) range.add(static_cast<float>(test::normal()));
        const float eps = static_cast<float>(std::pow(10.0, -test::integer(1, 9)));
        const Rescale<float> rescale({Normalize::minmax, static_cast<double>(eps)}, range);
        for (const float value : {range.low, range.high, (range.low + range.high) / 2})
            CHECK(rescale(value) == (value - range.low) / (range.high - range.low + eps), "eps %g", double(eps));
    }
}

TEST_CASE(a_control_groups_processors) {
    namespace fs = std::filesystem;
    const fs::path root = fs::temp_directory_path() / ("groups" + std::to_string(getpid()));
    const auto write = [&](const char* file, const char* content) {
        fs::create_directories((root / file).parent_path());
        std::ofstream(root / file) << content;
    };
    const auto of = [&](const char* quota, const char* period) {
        write("quota", quota);
        if (period) write("period", period);
        return cpu::detail::processors_of(root / "quota", period ? (root / "period").string() : "");
    };
    CHECK(of("200000 100000\n", nullptr) == 2);
    CHECK(of("150000 100000\n", nullptr) == 2, "a part of a processor takes a thread");
    CHECK(of("max 100000\n", nullptr) == 0);
    CHECK(of("-1\n", "100000\n") == 0);
    CHECK(of("50000\n", "100000\n") == 1);
    CHECK(of("", "") == 0 && of("7", nullptr) == 0 && of("3 0", nullptr) == 0);

    const auto in_groups = [&](const char* groups) {
        write("groups", groups);
        return cpu::detail::group_processors(root / "groups", root);
    };
    CHECK(in_groups("0::/job/step\n") == 0 && in_groups("") == 0 && in_groups("nonsense\n") == 0);
    write("job/cpu.max", "300000 100000\n");
    CHECK(in_groups("0::/job/step\n") == 3, "the group above");
    write("job/step/cpu.max", "max 100000\n");
    CHECK(in_groups("0::/job/step\n") == 3 && in_groups("0::/\n") == 0);
    write("job/step/cpu.max", "200000 100000\n");
    CHECK(in_groups("0::/job/step\n") == 2);
    write("cpu.max", "100000 100000\n");
    CHECK(in_groups("0::/elsewhere\n") == 1, "a container's root");
    write("cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n");
    write("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    CHECK(in_groups("9:name=systemd:/job\n4:cpu,cpuacct:/job\n") == 4);
    CHECK(in_groups("9:cpuset:/job\n") == 0);
    fs::remove_all(root);
}
