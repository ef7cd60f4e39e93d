// cam on the CPU: every channel's gradients are pooled and its activations added while they are in cache, then the
// small map is finished and drawn. Activations and gradients are read once.
#include <atomic>
#include <cmath>

#include "../check.hpp"
#include "../rules.hpp"
#include "kernels.hpp"
#include "resample.hpp"
#include "sums.hpp"
#include "tiles.hpp"

namespace fusedcam::cpu {
namespace {

// An item is one image and a group of its classes, as many as keep the partial maps in cache.
template <class Rule, class T>
class Cam {
  public:
    explicit Cam(const CamCall& call)
        : call_(call),
          classes_(call.gradients.extent(1)),
          channels_(call.activations.extent(1)),
          pixels_(call.activations.extent(2) * call.activations.extent(3)),
          block_(channel_block(channels_)),
          blocks_(channels_ <= block_ ? 1 : (channels_ + block_ - 1) / block_),
          group_(classes_ <= 1 ? 1 : std::clamp<int64_t>(65536 / pixels_, 1, classes_)),
          groups_(group_ == classes_ ? 1 : (classes_ + group_ - 1) / group_),
          grid_({call.activations.extent(2), call.activations.extent(3)}, {call.out.extent(-2), call.out.extent(-1)}),
          activations_(call.activations),
          gradients_(call.gradients),
          constant_(no_step(3) && no_step(4)),
          in_place_(activations_.in_place() && (constant_ || gradients_.in_place())),
          // The rows of several classes' channels stay in cache from one class to the next.
          together_(in_place_ && group_ == 1 ? block_ : tile_channels),
          sums_size_(blocks_ * group_ * pixels_),
          tile_size_(in_place_ ? 0 : TileReader<T>::buffer_size) {}

    void run() {
        const int64_t items = call_.activations.extent(0) * groups_;
        const int threads = call_.work < serial_below ? 1 : thread_count();
        const auto whole_items = [&](int64_t begin, int64_t end) {
            Workspace space(Workspace::bytes<T>(sums_size_) + scratch_bytes() + draw_bytes());
            T *sums = space.take<T>(sums_size_), *wide = space.take<T>(grid_.wide_size()),
              *row = space.take<T>(grid_.row_size());
            const Scratch scratch = take_scratch(space);
            for (int64_t i = begin; i < end; ++i) {
                const Item item = item_at(i);
                for (int64_t b = 0; b < blocks_; ++b) add_block(item, b, sums, scratch);
                for (int64_t k = 0; k < item.classes; ++k) draw(item, k, sums, wide, row);
            }
        };
        if (threads == 1)
            whole_items(0, items);
        else if (items >= threads)
            parallel_ranges(items, whole_items);
        else
            for (int64_t i = 0; i < items; ++i) split_item(item_at(i), threads);
        if (not_finite_.load(std::memory_order_relaxed))
            refuse_value("cam: nan='raise' and the class activation maps hold NaN or infinity; nothing was returned");
    }

  private:
    struct Item {
        int64_t image, classes, map;  // `map` is the first class's place among all maps
    };
    struct Scratch {
        T *weights, *tile;
    };

    Item item_at(int64_t index) const {
        if (groups_ == 1) return {index, classes_, index * classes_};
        const int64_t image = index / groups_, first = index % groups_ * group_;
        return {image, std::min(group_, classes_ - first), image * classes_ + first};
    }

    // For fewer items than threads: the threads share the channel blocks, then the maps or the rows of each.
    void split_item(const Item& item, int threads) {
        Workspace space(Workspace::bytes<T>(sums_size_) + draw_bytes());
        T *sums = space.take<T>(sums_size_), *wide = space.take<T>(grid_.wide_size());
        parallel_ranges(blocks_, [&](int64_t begin, int64_t end) {
            Workspace tiles(scratch_bytes());
            const Scratch scratch = take_scratch(tiles);
            for (int64_t b = begin; b < end; ++b) add_block(item, b, sums, scratch);
        });
        if (item.classes >= threads) {
            parallel_ranges(item.classes, [&](int64_t begin, int64_t end) {
                Workspace buffers(draw_bytes());
                T *own = buffers.take<T>(grid_.wide_size()), *row = buffers.take<T>(grid_.row_size());
                for (int64_t k = begin; k < end; ++k) draw(item, k, sums, own, row);
            });
            return;
        }
        for (int64_t k = 0; k < item.classes; ++k) {
            const Resampled<T> resampled(grid_, finish(k, sums), wide);
            const Rescale<T> rescale = resampled.rescale(call_.options.normalize);
            parallel_ranges(grid_.y.out, [&](int64_t begin, int64_t end) {
                Workspace rows(Workspace::bytes<T>(grid_.row_size()));
                write_rows(resampled, rescale, call_.out, call_.out.offset(item.map + k, 2), begin, end,
                           rows.take<T>(grid_.row_size()));
            });
        }
    }

    // The partial maps of channel block b, for each class of the item, into its place in sums [blocks, group, H * W].
    [[gnu::noinline]] void add_block(const Item& item, int64_t b, T* sums, const Scratch& scratch) const {
        const int64_t image = call_.activations.offset(item.image, 3), over_channels = call_.activations.strides[1];
        const int64_t begin = b * block_, end = std::min(channels_, begin + block_);
        T* partial = sums + b * group_ * pixels_;
        if (in_place_ && !constant_ && item.classes == 1)
            return fold_block(image + begin * over_channels,
                              call_.gradients.offset(item.map, 3) + begin * call_.gradients.strides[2], end - begin,
                              partial);
        std::fill_n(partial, item.classes * pixels_, T(0));
        for (int64_t c = begin; c < end; c += together_) {
            const int64_t count = std::min(together_, end - c);
            for (int64_t k = 0; k < item.classes; ++k)
                pool(call_.gradients.offset(item.map + k, 3) + c * call_.gradients.strides[2], count,
                     scratch.weights + k * together_, scratch.tile);
            for (int64_t p = 0; p < pixels_; p += tile_pixels) {
                const int64_t length = std::min(tile_pixels, pixels_ - p);
                activations_.load(image + c * over_channels, count, p, length, scratch.tile,
                                  [&](const auto* rows, int64_t step) {
                                      for (int64_t k = 0; k < item.classes; ++k)
                                          on(rows).add(rows, step, count, length, scratch.weights + k * together_,
                                                       partial + k * pixels_ + p);
                                  });
            }
        }
    }

    // The maps of one class where they lie, in one go.
    void fold_block(int64_t activations, int64_t gradients, int64_t count, T* partial) const {
        activations_.with_element([&](auto element) {
            const auto *a = call_.activations.at<const decltype(element)>(activations),
                       *g = call_.gradients.at<const decltype(element)>(gradients);
            on(a).fold(a, call_.activations.strides[1], g, call_.gradients.strides[2], count, pixels_, partial);
        });
    }

    // The kernels for rows of these elements.
    template <class Element>
    const RowKernels<T, Element>& on(const Element*) const {
        return kernels_.template rows<T, Element>(rules::index_of(Rule::name));
    }

    // alpha_c of `count` channels whose gradients begin at the offset `first`.
    void pool(int64_t first, int64_t count, T* weights, T* tile) const {
        if (constant_) {  // every pixel holds the mean
            const int64_t over_channels = call_.gradients.strides[2];
            gradients_.with_element([&](auto element) {
                const auto* from = call_.gradients.at<const decltype(element)>(first);
                for (int64_t c = 0; c < count; ++c)
                    weights[c] = Rule::weight(Rule::gather(static_cast<T>(widen(from[c * over_channels]))));
            });
            return;
        }
        for (int64_t c = 0; c < count; c += tile_channels)
            pool_tile(first + c * call_.gradients.strides[2], std::min(tile_channels, count - c), weights + c, tile);
    }

    void pool_tile(int64_t first, int64_t count, T* weights, T* tile) const {
        PairwiseSum<T> sums[tile_channels];
        for (int64_t c = 0; c < count; ++c) sums[c].reset();
        for (int64_t p = 0; p < pixels_; p += tile_pixels) {
            const int64_t length = std::min(tile_pixels, pixels_ - p);
            T parts[tile_channels];
            gradients_.load(first, count, p, length, tile,
                            [&](const auto* rows, int64_t step) { on(rows).pool(rows, step, count, length, parts); });
            for (int64_t c = 0; c < count; ++c) sums[c].add(parts[c]);
        }
        for (int64_t c = 0; c < count; ++c) weights[c] = Rule::weight(sums[c].total() / static_cast<T>(pixels_));
    }

    // Sums the blocks of one class, then the policy for non-finite scores, then the ReLU: the small map [H, W].
    T* finish(int64_t k, T* sums) {
        T* map = sums + k * pixels_;
        pairwise_rows(map, blocks_, group_ * pixels_, pixels_);
        const CamOptions& options = call_.options;
        if (options.nan != NanPolicy::propagate)
            for (int64_t p = 0; p < pixels_; ++p)
                if (!std::isfinite(map[p])) {
                    if (options.nan == NanPolicy::raise) not_finite_.store(true, std::memory_order_relaxed);
                    map[p] = T(0);
                }
        if (options.relu)
            for (int64_t p = 0; p < pixels_; ++p) map[p] = map[p] < T(0) ? T(0) : map[p];
        return map;
    }

    [[gnu::noinline]] void draw(const Item& item, int64_t k, T* sums, T* wide, T* row) {
        const Resampled<T> resampled(grid_, finish(k, sums), wide);
        write_rows(resampled, resampled.rescale(call_.options.normalize), call_.out, call_.out.offset(item.map + k, 2),
                   0, grid_.y.out, row);
    }

    bool no_step(int axis) const { return call_.gradients.extent(axis) == 1 || call_.gradients.strides[axis] == 0; }

    size_t draw_bytes() const { return Workspace::bytes<T>(grid_.wide_size()) + Workspace::bytes<T>(grid_.row_size()); }
    size_t scratch_bytes() const { return Workspace::bytes<T>(group_ * together_) + Workspace::bytes<T>(tile_size_); }
    Scratch take_scratch(Workspace& space) const {
        T* weights = space.take<T>(group_ * together_);
        return {weights, space.take<T>(tile_size_)};
    }

    const CamCall& call_;
    const int64_t classes_, channels_, pixels_, block_, blocks_, group_, groups_;
    const Grid<T> grid_;
    const TileReader<T> activations_, gradients_;
    const bool constant_, in_place_;
    const int64_t together_;  // channels pooled at once
    const int64_t sums_size_, tile_size_;
    const Kernels& kernels_ = kernels();
    std::atomic<bool> not_finite_{false};
};

}  // namespace

void cam(const CamCall& call) {
    if (call.result.count() == 0) return;
    rules::visit(call.options.method, [&](auto rule) {
        if (call.activations.dtype == DType::float64)
            Cam<decltype(rule), double>(call).run();
        else
            Cam<decltype(rule), float>(call).run();
    });
}

}  // namespace fusedcam::cpu
