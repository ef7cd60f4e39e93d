// cam on the CPU: every channel's gradients are pooled and its activations added while they are in cache, then the
// small map is finished and drawn. Activations and gradients are read once.
#include <atomic>
#include <cmath>

#include "../check.hpp"
#include "channel_reader.hpp"
#include "volume.hpp"

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
          pixels_(call.activations.extent(2) * call.activations.extent(3) * call.activations.extent(4)),
          block_(channel_block(channels_)),
          blocks_(channels_ <= block_ ? 1 : (channels_ + block_ - 1) / block_),
          group_(class_group()),
          groups_(group_ == classes_ ? 1 : (classes_ + group_ - 1) / group_),
          grid_(size_of_channels(call.activations), call.size),
          out_(call.maps()),
          reader_(call),
          // The rows of several classes' channels stay in the first cache from one class to the next.
          together_(reader_.in_place() && (group_ == 1 || block_ * pixels_ <= 6144) ? block_ : tile_channels),
          sums_size_(blocks_ * group_ * pixels_) {}

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
        T* weights;
        typename ChannelReader<Rule, T>::Scratch reader;
    };

    // As many classes as keep all blocks' sums in cache, but a few even of large maps, whose activations would else
    // come from memory once for every class.
    int64_t class_group() const {
        if (classes_ <= 1) return 1;
        const int64_t most = 65536 / pixels_;
        return std::clamp<int64_t>(std::max(most / blocks_, std::min<int64_t>(most, 8)), 1, classes_);
    }

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
            if (call_.volumes()) {
                draw_volume(item, k, sums, true);
                continue;
            }
            const Resampled<T> resampled(grid_, finish(k, sums), wide);
            const Rescale<T> rescale = resampled.rescale(call_.options.normalize);
            parallel_ranges(grid_.y.out, [&](int64_t begin, int64_t end) {
                Workspace rows(Workspace::bytes<T>(grid_.row_size()));
                write_rows(resampled, rescale, out_, out_.offset(item.map + k, 2), begin, end,
                           rows.take<T>(grid_.row_size()));
            });
        }
    }

    // The partial maps of channel block b, for each class of the item, into its place in sums [blocks, group, H * W].
    [[gnu::noinline]] void add_block(const Item& item, int64_t b, T* sums, const Scratch& scratch) const {
        const int64_t image = call_.activations.offset(item.image, 4), over_channels = call_.activations.strides[1];
        const int64_t begin = b * block_, end = std::min(channels_, begin + block_);
        T* partial = sums + b * group_ * pixels_;
        const auto gradients = [&](int64_t k, int64_t c) {
            return call_.gradients.offset(item.map + k, 4) + c * call_.gradients.strides[2];
        };
        if (reader_.folds() && (item.classes == 1 || !Rule::weights)) {
            for (int64_t k = 0; k < item.classes; ++k)
                reader_.fold(image + begin * over_channels, gradients(k, begin), end - begin, partial + k * pixels_);
            return;
        }
        std::fill_n(partial, item.classes * pixels_, T(0));
        for (int64_t c = begin; c < end; c += together_) {
            const int64_t count = std::min(together_, end - c), first = image + c * over_channels;
            if constexpr (Rule::sums_activations) reader_.total(first, count, scratch.reader);
            if constexpr (Rule::weights)
                for (int64_t k = 0; k < item.classes; ++k)
                    reader_.weigh(first, gradients(k, c), count, scratch.reader, scratch.weights + k * together_);
            for (int64_t p = 0; p < pixels_; p += tile_pixels) {
                const int64_t length = std::min(tile_pixels, pixels_ - p);
                if constexpr (Rule::weights)
                    reader_.add(first, count, p, length, scratch.reader, item.classes, scratch.weights, together_,
                                partial + p);
                else
                    for (int64_t k = 0; k < item.classes; ++k)
                        reader_.products(first, gradients(k, c), count, p, length, scratch.reader,
                                         partial + k * pixels_ + p);
            }
        }
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
        if (call_.volumes()) return draw_volume(item, k, sums, false);
        const Resampled<T> resampled(grid_, finish(k, sums), wide);
        write_rows(resampled, resampled.rescale(call_.options.normalize), out_, out_.offset(item.map + k, 2), 0,
                   grid_.y.out, row);
    }
    [[gnu::noinline]] void draw_volume(const Item& item, int64_t k, T* sums, bool parallel) {
        const Volume<T> volume(grid_, finish(k, sums), parallel);
        volume.write(volume.rescale(call_.options.normalize), out_, out_.offset(item.map + k, 3));
    }

    size_t draw_bytes() const { return Workspace::bytes<T>(grid_.wide_size()) + Workspace::bytes<T>(grid_.row_size()); }
    size_t scratch_bytes() const { return Workspace::bytes<T>(group_ * together_) + reader_.scratch_bytes(together_); }
    Scratch take_scratch(Workspace& space) const {
        T* weights = space.take<T>(group_ * together_);
        return {weights, reader_.take_scratch(space, together_)};
    }

    const CamCall& call_;
    const int64_t classes_, channels_, pixels_, block_, blocks_, group_, groups_;
    const Grid<T> grid_;
    const ArrayView out_;  // [..., (D',) H', W']
    const ChannelReader<Rule, T> reader_;
    const int64_t together_;  // channels weighed at once
    const int64_t sums_size_;
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
