// The maps of several layers as one on the CPU: line by line, so that no layer's map is ever drawn as a whole.
#include <memory>
#include <mutex>
#include <vector>

#include "volume.hpp"

namespace fusedcam::cpu {
namespace {

// One layer's map on its way to the output grid.
template <class T>
class LayerMap {
  public:
    LayerMap(const Grid<T>& grid, const ArrayView& layer, int64_t index, bool volumes)
        : small_(room(grid.z.in * grid.y.in * grid.x.in)), wide_(room(grid.wide_size())) {
        const int64_t pixels = grid.y.in * grid.x.in;
        for (int64_t z = 0; z < grid.z.in; ++z)
            load_map(layer.sub(index * grid.z.in + z, 2), small_.get() + z * pixels);
        if (volumes)
            volume_ = std::make_unique<Volume<T>>(grid, small_.get(), false);
        else
            map_ = std::make_unique<Resampled<T>>(grid, small_.get(), wide_.get());
    }

    // Row y of slice z.
    void row(int64_t z, int64_t y, T* to) const {
        if (volume_)
            volume_->row(z, y, {}, to);
        else
            map_->row(y, {}, to);
    }

  private:
    static std::unique_ptr<T[]> room(int64_t count) {
        return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(count));
    }

    std::unique_ptr<T[]> small_, wide_;
    std::unique_ptr<Resampled<T>> map_;
    std::unique_ptr<Volume<T>> volume_;
};

template <class T>
void combine(Fuse by, const T* other, int64_t width, T* row) {
    switch (by) {
        case Fuse::mean:
            for (int64_t x = 0; x < width; ++x) row[x] += other[x];
            break;
        case Fuse::max:  // keeps NaN
            for (int64_t x = 0; x < width; ++x) row[x] = other[x] > row[x] || other[x] != other[x] ? other[x] : row[x];
            break;
        case Fuse::product:
            for (int64_t x = 0; x < width; ++x) row[x] *= other[x];
            break;
    }
}

template <class T>
class Fuser {
  public:
    explicit Fuser(const FuseCall& call) : call_(call), out_(call.maps()), lines_(call.size.depth * call.size.height) {
        for (int i = 0; i < call.count; ++i)
            grids_.push_back(std::make_unique<Grid<T>>(call.size_of_layer(i), call.size));
    }

    void run() const {
        const int inner = call_.volumes() ? 3 : 2;
        const int64_t maps = out_.count_sub(inner);
        const int threads = call_.work < serial_below ? 1 : thread_count();
        const auto some = [&](int64_t begin, int64_t end) {
            for (int64_t index = begin; index < end; ++index) one_map(index, out_.offset(index, inner), false);
        };
        if (threads == 1)
            some(0, maps);
        else if (maps >= threads)
            parallel_ranges(maps, some);
        else
            for (int64_t index = 0; index < maps; ++index) one_map(index, out_.offset(index, inner), true);
    }

  private:
    void one_map(int64_t index, int64_t offset, bool parallel) const {
        std::vector<std::unique_ptr<LayerMap<T>>> layers;
        for (int i = 0; i < call_.count; ++i)
            layers.push_back(std::make_unique<LayerMap<T>>(*grids_[static_cast<size_t>(i)], call_.layers[i], index,
                                                           call_.volumes()));
        std::mutex lock;
        Extremes<T> range;
        for_lines(parallel, [&](int64_t begin, int64_t end) {
            const int64_t width = call_.size.width;
            Workspace space(2 * Workspace::bytes<T>(width));
            T *row = space.take<T>(width), *other = space.take<T>(width);
            Extremes<T> own;
            for (int64_t line = begin; line < end; ++line) {
                fused(layers, line, other, row);
                if (call_.normalize.any()) kernels_.extremes(row, row, T(0), width, own);
                copy(row, offset, line);
            }
            const std::scoped_lock held(lock);
            range.add(own);
        });
        if (call_.normalize.any()) rescale({call_.normalize, range}, offset, parallel);
    }

    void fused(const std::vector<std::unique_ptr<LayerMap<T>>>& layers, int64_t line, T* other, T* row) const {
        const int64_t z = line / call_.size.height, y = line - z * call_.size.height, width = call_.size.width;
        layers[0]->row(z, y, row);
        for (size_t i = 1; i < layers.size(); ++i) {
            layers[i]->row(z, y, other);
            combine(call_.by, other, width, row);
        }
        if (call_.by == Fuse::mean)
            for (int64_t x = 0; x < width; ++x) row[x] /= static_cast<T>(call_.count);
    }

    // What was written, once its extremes are known.
    void rescale(const Rescale<T>& rescale, int64_t offset, bool parallel) const {
        for_lines(parallel, [&](int64_t begin, int64_t end) {
            const int64_t width = call_.size.width;
            Workspace space(2 * Workspace::bytes<T>(width));
            T *row = space.take<T>(width), *scaled = space.take<T>(width);
            for (int64_t line = begin; line < end; ++line) {
                const T* from = place(offset, line);
                for (int64_t x = 0; x < width; ++x) row[x] = from[x * out_.stride(-1)];
                if (rescale.constant)
                    std::fill_n(scaled, width, rescale.fill);
                else
                    kernels_.row(row, row, T(0), rescale, width, scaled);
                copy(scaled, offset, line);
            }
        });
    }

    T* place(int64_t offset, int64_t line) const {
        const int64_t z = line / call_.size.height, y = line - z * call_.size.height;
        return out_.at<T>(offset + (call_.volumes() ? z * out_.stride(-3) : 0) + y * out_.stride(-2));
    }
    void copy(const T* row, int64_t offset, int64_t line) const {
        T* to = place(offset, line);
        for (int64_t x = 0; x < call_.size.width; ++x) to[x * out_.stride(-1)] = row[x];
    }

    template <class Body>
    void for_lines(bool parallel, Body&& body) const {
        if (parallel)
            parallel_ranges(lines_, body);
        else
            body(int64_t{0}, lines_);
    }

    const FuseCall& call_;
    const ArrayView out_;
    const int64_t lines_;
    std::vector<std::unique_ptr<Grid<T>>> grids_;
    const DrawKernels<T>& kernels_ = kernels().template draw<T>();
};

}  // namespace

void fuse(const FuseCall& call) {
    if (call.result.count() == 0) return;
    if (call.layers[0].dtype == DType::float64)
        Fuser<double>(call).run();
    else
        Fuser<float>(call).run();
}

}  // namespace fusedcam::cpu
