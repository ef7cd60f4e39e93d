// resize's derivative on the CPU: through the normalisation, whose extremes share theirs among ties, and the transposed
// interpolation, an axis after the other.
#include <algorithm>
#include <cmath>
#include <vector>

#include "volume.hpp"

namespace fusedcam::cpu {
namespace {

template <class T>
class ResizeBackward {
  public:
    explicit ResizeBackward(const ResizeBackwardCall& call)
        : call_(call),
          from_(call.forward.heatmap),
          own_{from_.extent(-2), from_.extent(-1), call.forward.volumes() ? from_.extent(-3) : 1},
          inner_(call.forward.volumes() ? 3 : 2),
          grid_(own_, call.forward.size) {}

    void run() const {
        const int64_t maps = from_.count_sub(inner_);
        const auto some = [&](int64_t begin, int64_t end) {
            for (int64_t index = begin; index < end; ++index) map(index);
        };
        if (call_.forward.work < serial_below)
            some(0, maps);
        else
            parallel_ranges(maps, some);
    }

  private:
    void map(int64_t index) const {
        const int64_t plane = own_.height * own_.width, depth = grid_.z.out, height = grid_.y.out, width = grid_.x.out;
        std::vector<T> small(static_cast<size_t>(own_.depth * plane)), row(static_cast<size_t>(width));
        for (int64_t z = 0; z < own_.depth; ++z)
            load_map(from_.sub(index * own_.depth + z, 2), small.data() + z * plane);
        const Volume<T> volume(grid_, small.data(), false);
        const Normalization mode = call_.forward.normalize;
        Extremes<T> range;
        const Rescale<T> rescale = mode.any() ? volume.rescale(mode) : Rescale<T>{};
        const T* slopes = call_.of_result.at<const T>(index * depth * height * width);
        const auto each_row = [&](auto&& body) {
            for (int64_t z = 0; z < depth; ++z)
                for (int64_t y = 0; y < height; ++y) {
                    volume.row(z, y, Rescale<T>{}, row.data());
                    body(z, y, slopes + (z * height + y) * width);
                }
        };
        if (mode.any() && !rescale.constant)
            each_row([&](int64_t, int64_t, const T*) {
                for (const T value : row) range.add(value);
            });
        const RescaleSlopes<T> normalised(mode, rescale, range);
        ExtremeSlopes shares;
        if (normalised.reads())
            each_row([&](int64_t, int64_t, const T* slope) {
                for (int64_t x = 0; x < width; ++x) normalised.add(row[static_cast<size_t>(x)], slope[x], shares);
            });
        shares.share();

        // Transposed along y and z while rows come, then along x; the other way round where wide rows would be many
        // more than the outputs: there is never more in between than the inputs or the outputs are.
        const bool along_first = own_.width < width && own_.depth * own_.height > depth * height;
        const int64_t kept = along_first ? own_.width : width;
        std::vector<double> rows(static_cast<size_t>(own_.depth * own_.height * kept)),
            line(static_cast<size_t>(width)), shorter(static_cast<size_t>(along_first ? kept : 0));
        each_row([&](int64_t z, int64_t y, const T* slope) {
            for (int64_t x = 0; x < width; ++x)
                line[static_cast<size_t>(x)] = normalised(row[static_cast<size_t>(x)], slope[x], shares);
            if (along_first) {
                std::fill(shorter.begin(), shorter.end(), 0.0);
                add_along(line.data(), shorter.data());
            }
            const double* given = along_first ? shorter.data() : line.data();
            const Tap<T> over = grid_.z[z], down = grid_.y[y];
            const auto add = [&](int64_t low_z, int64_t low_y, double weight) {
                if (weight == 0) return;
                double* to = rows.data() + (low_z * own_.height + low_y) * kept;
                for (int64_t x = 0; x < kept; ++x) to[x] += weight * given[x];
            };
            const double v = down.weight, w = over.weight;
            add(over.low, down.low, (1 - w) * (1 - v));
            add(over.low, down.high, (1 - w) * v);
            add(over.high, down.low, w * (1 - v));
            add(over.high, down.high, w * v);
        });
        if (along_first) return store(rows.data(), index);
        std::vector<double> result(static_cast<size_t>(own_.depth * plane));
        for (int64_t i = 0; i < own_.depth * own_.height; ++i)
            add_along(rows.data() + i * width, result.data() + i * own_.width);
        store(result.data(), index);
    }

    // A row of the output's width, transposed, to one of the map's.
    void add_along(const double* given, double* to) const {
        for (int64_t x = 0; x < grid_.x.out; ++x) {
            const Tap<T> at = grid_.x[x];
            const double weight = at.weight;
            to[at.low] += (1 - weight) * given[x];
            if (weight != 0) to[at.high] += weight * given[x];
        }
    }

    void store(const double* result, int64_t index) const {
        const ArrayView to = call_.of_heatmap.sub(index, inner_);
        const int64_t over_depth = inner_ == 3 ? to.stride(-3) : 0;
        visit_dtype(to.dtype, [&](auto element) {
            using Element = decltype(element);
            if constexpr (!std::is_same_v<Element, uint8_t>)
                for (int64_t z = 0; z < own_.depth; ++z)
                    for (int64_t y = 0; y < own_.height; ++y)
                        for (int64_t x = 0; x < own_.width; ++x)
                            *to.at<Element>(z * over_depth + y * to.stride(-2) + x * to.stride(-1)) =
                                narrow<Element>(static_cast<WideOf<Element>>(*result++));
        });
    }

    const ResizeBackwardCall& call_;
    const ArrayView& from_;
    const Size own_;
    const int inner_;
    const Grid<T> grid_;
};

}  // namespace

void resize_backward(const ResizeBackwardCall& call) {
    if (call.forward.result.count() == 0 || call.of_heatmap.shape.count() == 0) return;
    if (call.forward.heatmap.dtype == DType::float64)
        ResizeBackward<double>(call).run();
    else
        ResizeBackward<float>(call).run();
}

}  // namespace fusedcam::cpu
