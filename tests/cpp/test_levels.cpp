// The innermost loops of every instruction set that this processor runs: their bits are the same, and the values right.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "check.hpp"
#include "colour.hpp"
#include "cpu/resample.hpp"

using namespace fusedcam;
using namespace fusedcam::cpu;
using test::integer;
using test::normal;

namespace {

// Memory that ends where it ends, so that ASan sees an element too many.
template <class T>
struct Buffer {
    explicit Buffer(int64_t count) : data(new T[static_cast<size_t>(count)]), count(count) {}
    T& operator[](int64_t i) const { return data[static_cast<size_t>(i)]; }
    bool operator==(const Buffer& other) const {
        return !std::memcmp(data.get(), other.data.get(), sizeof(T) * static_cast<size_t>(count));
    }
    std::unique_ptr<T[]> data;
    int64_t count;
};

template <class T, class Element>
Element any() {
    if constexpr (std::is_same_v<Element, Float16>)  // up to 2, and subnormal ones
        return {static_cast<uint16_t>(integer(0, 0x3fff) | integer(0, 1) << 15)};
    else if constexpr (std::is_same_v<Element, BFloat16>)
        return {static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(normal())) >> 16)};
    else
        return static_cast<T>(normal());
}

template <class T, class Element>
void rows_of() {
    for (int round = 0; round < 400; ++round) {
        const int64_t length = integer(1, round % 4 ? 80 : 1024), count = integer(1, 37), step = length + integer(0, 9);
        Buffer<Element> a(step * (count - 1) + length), g(step * (count - 1) + length);
        for (int64_t i = 0; i < a.count; ++i) a[i] = any<T, Element>(), g[i] = any<T, Element>();
        Buffer<T> weights(count), start(length);
        for (int64_t c = 0; c < count; ++c) weights[c] = static_cast<T>(normal());
        for (int64_t p = 0; p < length; ++p) start[p] = static_cast<T>(normal());
        std::vector<Buffer<T>> sums, maps, folded;
        for (int level = 0; const Kernels* kernels = kernels_of_level(level); ++level) {
            const RowKernels<T, Element>& rows = kernels->sums<T, Element>().rows;
            const RuleKernels<T, Element>& rule =
                kernels->sums<T, Element>().rules[rules::index_of(rules::GradCam::name)];
            Buffer<T>&sum = sums.emplace_back(count), &map = maps.emplace_back(length),
            &fold = folded.emplace_back(length);
            rows.sum(g.data.get(), step, count, length, sum.data.get());
            std::copy_n(start.data.get(), length, map.data.get());
            rows.add(a.data.get(), step, count, length, weights.data.get(), map.data.get());
            rule.fold({a.data.get(), step, g.data.get(), step, 0}, count, length, T(0), fold.data.get());
            CHECK(sum == sums[0] && map == maps[0] && fold == folded[0], "%s: length %d, %d channels", kernels->name,
                  int(length), int(count));
        }
        const double unit = sizeof(T) == 8 ? 1e-14 : 3e-6;
        std::vector<double> means(static_cast<size_t>(count));
        for (int64_t c = 0; c < count; ++c) {
            double exact = 0, size = 0;
            for (int64_t p = 0; p < length; ++p) {
                const double value = static_cast<double>(widen(g[c * step + p]));
                exact += value;
                size += std::abs(value);
            }
            means[static_cast<size_t>(c)] = exact / static_cast<double>(length);
            CHECK(std::abs(sums[0][c] - exact) <= unit * size, "sum of %d", int(length));
        }
        for (int64_t p = 0; p < length; ++p) {
            double exact = start[p], size = std::abs(exact), fold = 0, fold_size = 0;
            for (int64_t c = 0; c < count; ++c) {
                const double value = static_cast<double>(widen(a[c * step + p]));
                exact += value * weights[c];
                size += std::abs(value * weights[c]);
                fold += value * means[static_cast<size_t>(c)];
                double mean_size = 0;
                for (int64_t q = 0; q < length; ++q)
                    mean_size += std::abs(static_cast<double>(widen(g[c * step + q]))) / static_cast<double>(length);
                fold_size += std::abs(value) * mean_size;
            }
            CHECK(std::abs(maps[0][p] - exact) <= unit * size, "pixel %d of %d", int(p), int(length));
            CHECK(std::abs(folded[0][p] - fold) <= unit * fold_size, "folded pixel %d of %d", int(p), int(length));
        }
    }
}

// Every rule by whole channels, by tiles of them and by its formula, on every level: the same bits.
template <class T, class Element, class Rule>
void rule_of(Rule) {
    for (int round = 0; round < 60; ++round) {
        const int64_t length = integer(1, round % 4 ? 80 : 1024), count = integer(1, 37), step = length + integer(0, 9),
                      apart = step * (count - 1) + length;
        Buffer<Element> a(apart), g(apart * Rule::moments);
        for (int64_t i = 0; i < a.count; ++i) a[i] = any<T, Element>();
        for (int64_t i = 0; i < g.count; ++i) g[i] = any<T, Element>();
        const Channels<Element> channels{a.data.get(), step, g.data.get(), step, apart};
        const T eps = Rule::has_eps && round % 2 ? T(0.5) : T(0);
        std::vector<Buffer<T>> folded;
        for (int level = 0; const Kernels* kernels = kernels_of_level(level); ++level) {
            const SumKernels<T, Element>& sums = kernels->sums<T, Element>();
            const RuleKernels<T, Element>& rule = sums.rules[rules::index_of(Rule::name)];
            Buffer<T>& fold = folded.emplace_back(length);
            rule.fold(channels, count, length, eps, fold.data.get());
            Buffer<T> map(length), totals(count), weights(count);
            for (int64_t p = 0; p < length; ++p) map[p] = 0;
            if constexpr (Rule::weights) {
                sums.rows.sum(a.data.get(), step, count, length, totals.data.get());
                rule.pool(channels, count, length, totals.data.get(), eps, weights.data.get());
                for (int64_t c = 0; c < count; ++c)
                    if constexpr (Rule::averages)
                        weights[c] /= static_cast<T>(length);
                    else
                        weights[c] = Rule::weight(weights[c], totals[c], eps);
                sums.rows.add(a.data.get(), step, count, length, weights.data.get(), map.data.get());
            } else {
                rule.products(channels, count, length, map.data.get());
            }
            CHECK(fold == folded[0] && map == fold, "%s, %s: length %d, %d channels", kernels->name, Rule::name.data(),
                  int(length), int(count));
        }
    }
}

template <class T, class Element>
void all_rules() {
    std::apply([](auto... rule) { (rule_of<T, Element>(rule), ...); }, rules::All{});
}
TEST_CASE(rules_of_float32) { all_rules<float, float>(); }
TEST_CASE(rules_of_float16) { all_rules<float, Float16>(); }
TEST_CASE(rules_of_bfloat16) { all_rules<float, BFloat16>(); }
TEST_CASE(rules_of_float64) { all_rules<double, double>(); }

template <class T>
void drawing() {
    for (int round = 0; round < 300; ++round) {
        const int64_t width = integer(1, 70);
        Buffer<T> low(width), high(width);
        for (int64_t x = 0; x < width; ++x) low[x] = static_cast<T>(normal()), high[x] = static_cast<T>(normal());
        if (round % 5 == 0) low[integer(0, width - 1)] = std::numeric_limits<T>::quiet_NaN();
        if (round % 7 == 0) high[integer(0, width - 1)] = std::numeric_limits<T>::infinity();
        const T weight = round % 3 ? static_cast<T>(integer(1, 99)) / T(100) : T(0);
        Extremes<T> exact;
        for (int64_t x = 0; x < width; ++x) exact.add(lerp(low[x], high[x], weight));
        for (const Normalize mode : {Normalize::none, Normalize::minmax, Normalize::max})
            for (const T range : {T(1), T(1e-35)}) {
                const Rescale<T> rescale(mode, {T(-2) * range, T(2) * range});
                for (int level = 0; const Kernels* kernels = kernels_of_level(level); ++level) {
                    Buffer<T> out(width);
                    kernels->draw<T>().row(low.data.get(), high.data.get(), weight, rescale, width, out.data.get());
                    Extremes<T> found;
                    kernels->draw<T>().extremes(low.data.get(), high.data.get(), weight, width, found);
                    const auto same = [](T a, T b) { return a == b || (std::isnan(a) && std::isnan(b)); };
                    CHECK(same(found.low, exact.low) && same(found.high, exact.high), "%s: extremes", kernels->name);
                    for (int64_t x = 0; x < width; ++x) {
                        const T value = lerp(low[x], high[x], weight);
                        CHECK(same(out[x], rescale.identity ? value : rescale(value)), "%s: column %d of %d",
                              kernels->name, int(x), int(width));
                    }
                }
            }
    }
}

// Values of all kinds, those at and beside every half among them.
template <class T>
T brightness_of(int round) {
    const T half = static_cast<T>((integer(0, 255) + 0.5) / 255.0);
    switch (integer(0, 7)) {
        case 0: return std::nextafter(half, T(integer(0, 1)));
        case 1: return half;
        case 2: return round % 2 ? std::numeric_limits<T>::quiet_NaN() : T(1);
        case 3: return static_cast<T>(normal());
        default: return static_cast<T>(integer(0, 1 << 20)) / static_cast<T>(1 << 20);
    }
}

template <class T>
void colours_of(const std::vector<uint8_t>& palette, const Colours& colours) {
    for (int round = 0; round < 400; ++round) {
        const int64_t width = integer(1, 300);
        Buffer<T> row(width);
        Buffer<int32_t> exact(width);
        Buffer<uint8_t> picture(3 * width), image(3 * width);
        bool all_known = true;
        for (int64_t x = 0; x < width; ++x) {
            row[x] = brightness_of<T>(round);
            all_known &= !std::isnan(row[x]);
            exact[x] = std::isnan(row[x]) ? unknown_colour : colour_index(row[x]);
            for (int64_t c = 0; c < 3; ++c) {
                picture[3 * x + c] =
                    exact[x] == unknown_colour ? uint8_t{0} : palette[static_cast<size_t>(3 * exact[x] + c)];
                image[3 * x + c] = static_cast<uint8_t>(integer(0, 255));
            }
        }
        const int share = round % 3 ? integer(0, 256) : 128;
        for (int level = 0; const Kernels* kernels = kernels_of_level(level); ++level) {
            Buffer<int32_t> index(width);
            bool known = false;
            if constexpr (sizeof(T) == 8)
                known = kernels->paint.index64(row.data.get(), width, index.data.get());
            else
                known = kernels->paint.index32(row.data.get(), width, index.data.get());
            CHECK(known == all_known && index == exact, "%s: indices of %d", kernels->name, int(width));
            Buffer<uint8_t> out(3 * width), mixed(3 * width);
            kernels->paint.colour(index.data.get(), width, colours, out.data.get());
            kernels->paint.mix(picture.data.get(), image.data.get(), 3 * width, share, mixed.data.get());
            for (int64_t i = 0; i < 3 * width; ++i) {
                CHECK(i >= 3 * (width - 1) || out[i] == picture[i], "%s: colour %d of %d", kernels->name, int(i),
                      int(3 * width));
                CHECK(mixed[i] == (share * picture[i] + (256 - share) * image[i] + 128) / 256, "%s: %d of 256",
                      kernels->name, share);
            }
        }
    }
}

}  // namespace

TEST_CASE(rows_are_coloured) {
    std::vector<uint8_t> palette(3 * 256);
    Colours colours;
    for (int i = 0; i < 256; ++i)
        for (int c = 0; c < 3; ++c)
            palette[static_cast<size_t>(3 * i + c)] = colours.rows[i][c] = colours.planes[c][i] =
                static_cast<uint8_t>(integer(0, 255));
    colours_of<float>(palette, colours);
    colours_of<double>(palette, colours);
}

template <class T>
void stretched() {
    const int64_t height = integer(1, 9), width = integer(1, 70), count = 3 * height * width;
    Buffer<T> image(count), colours(256 * 4);
    Buffer<uint8_t> index(height * width), out(count);
    for (int64_t i = 0; i < count; ++i) image[i] = static_cast<T>(integer(0, 1000)) / T(1000);
    for (int64_t i = 0; i < colours.count; ++i) colours[i] = static_cast<T>(integer(0, 1000)) / T(1500);
    for (int64_t p = 0; p < index.count; ++p) index[p] = static_cast<uint8_t>(integer(0, 255));
    const T share = static_cast<T>(0.3);
    const auto [of_image, of_picture] =
        overlay_stretched(StretchCall<T>{height, width, image.data.get(), index.data.get(),
                                         reinterpret_cast<const T(*)[4]>(colours.data.get()), share, out.data.get()});
    T bright = 0, most = 0;
    std::vector<T> exact(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        exact[static_cast<size_t>(i)] = colours[4 * index[i / 3] + i % 3] + share * image[i];
        bright = std::max(bright, image[i]);
        most = std::max(most, exact[static_cast<size_t>(i)]);
    }
    CHECK(static_cast<T>(of_image) == bright && static_cast<T>(of_picture) == most);
    for (int64_t i = 0; i < count; ++i)
        CHECK(out[i] == static_cast<uint8_t>(T(255) * (exact[static_cast<size_t>(i)] / most)), "value %d of %d", int(i),
              int(count));
}

TEST_CASE(pictures_are_stretched) {
    for (int round = 0; round < 100; ++round) {
        stretched<float>();
        stretched<double>();
    }
}

TEST_CASE(rows_of_float32) { rows_of<float, float>(); }
TEST_CASE(rows_of_float16) { rows_of<float, Float16>(); }
TEST_CASE(rows_of_bfloat16) { rows_of<float, BFloat16>(); }
TEST_CASE(rows_of_float64) { rows_of<double, double>(); }

TEST_CASE(every_half_is_loaded_as_it_widens) {
    for (int level = 0; const Kernels* kernels = kernels_of_level(level); ++level)
        for (uint32_t bits = 0; bits < 65536; bits += 8) {
            uint16_t halves[8];
            for (uint32_t i = 0; i < 8; ++i) halves[i] = static_cast<uint16_t>(bits + i);
            const float one = 1;
            float loaded[2][8] = {};
            kernels->sums<float, Float16>().rows.add(reinterpret_cast<const Float16*>(halves), 8, 1, 8, &one,
                                                     loaded[0]);
            kernels->sums<float, BFloat16>().rows.add(reinterpret_cast<const BFloat16*>(halves), 8, 1, 8, &one,
                                                      loaded[1]);
            for (int i = 0; i < 8; ++i) {
                const float exact[2] = {widen(Float16{halves[i]}), widen(BFloat16{halves[i]})};
                for (int kind = 0; kind < 2; ++kind)
                    CHECK(loaded[kind][i] == exact[kind] || (std::isnan(loaded[kind][i]) && std::isnan(exact[kind])),
                          "%s: bits %x", kernels->name, halves[i]);
            }
        }
}

TEST_CASE(rows_are_drawn_as_lerp_and_rescale_say) {
    drawing<float>();
    drawing<double>();
}

TEST_CASE(an_axis_has_the_taps_of_its_indices) {
    for (int round = 0; round < 600; ++round) {
        const int64_t in = integer(1, round % 2 ? 40 : 3000), out = integer(1, round % 3 ? 400 : 70000);
        const Axis<float> axis(in, out);
        for (int64_t x = 0; x < out; ++x) {
            const Tap<float> got = axis[x], exact = tap<float>(x, in, out);
            CHECK(got.low == exact.low && got.high == exact.high && got.weight == exact.weight, "%d of %d from %d",
                  int(x), int(out), int(in));
        }
    }
}

TEST_CASE(rows_are_widened_by_cells) {
    for (int level = 0; const Kernels* kernels = kernels_of_level(level); ++level)
        for (int round = 0; round < 300; ++round) {
            const int64_t in = integer(1, 20), out = in * 4 + integer(0, 200);
            const Axis<float> axis(in, out);
            CHECK(axis.by_cells);
            Buffer<float> from(in), to(out + padding);
            for (int64_t i = 0; i < in; ++i) from[i] = static_cast<float>(normal());
            kernels->draw32.widen(from.data.get(), in, axis.starts(), axis.weights(), to.data.get());
            for (int64_t x = 0; x < out; ++x) {
                const Tap<float> at = axis[x];
                CHECK(to[x] == lerp(from[at.low], from[at.high], at.weight), "%d of %d from %d", int(x), int(out),
                      int(in));
            }
        }
}
