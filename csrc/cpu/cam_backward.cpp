// cam's derivative on the CPU: channel after channel, each read once for all that its scores change by.
#include "../ops.hpp"
#include "kernels.hpp"
#include "threads.hpp"
#include "tiles.hpp"
#include "workspace.hpp"

namespace fusedcam::cpu {
namespace {

// row [D, H, W] -> the view's channel at that offset.
template <class T>
void store_channel(const T* row, const ArrayView& to, int64_t offset) {
    const int64_t height = to.extent(-2), width = to.extent(-1), step = to.stride(-1);
    visit_dtype(to.dtype, [&](auto element) {
        using Element = decltype(element);
        if constexpr (std::is_same_v<WideOf<Element>, T>)
            for (int64_t z = 0; z < to.extent(-3); ++z)
                for (int64_t y = 0; y < height; ++y) {
                    Element* line = to.at<Element>(offset + z * to.stride(-3) + y * to.stride(-2));
                    for (int64_t x = 0; x < width; ++x) line[x * step] = narrow<Element>(*row++);
                }
    });
}

template <class T>
class CamBackward {
  public:
    explicit CamBackward(const CamBackwardCall& call)
        : call_(call),
          channels_(call.forward.activations.extent(1)),
          classes_(call.forward.gradients.extent(1)),
          pixels_(call.forward.activations.extent(2) * call.forward.activations.extent(3) *
                  call.forward.activations.extent(4)),
          activations_(call.forward.activations),
          gradients_(call.forward.gradients) {
        rules::visit(call.forward.options.method, [&](auto rule) {
            moments_ = rule.moments;
            rule_ = kernels().template slopes<T>().rules[rules::index_of(rule.name)];
        });
        even_ = moments_ == 1;
        for (int axis = 3; axis < 6; ++axis)
            even_ = even_ && (call.of_gradients.extent(axis) == 1 || call.of_gradients.strides[axis] == 0);
    }

    void run() const {
        const int64_t items = call_.forward.activations.extent(0) * channels_;
        const auto some = [&](int64_t begin, int64_t end) {
            Workspace space(2 * Workspace::bytes<T>(pixels_) + 2 * Workspace::bytes<T>(moments_ * pixels_));
            T *a = space.take<T>(pixels_), *of_a = space.take<T>(pixels_), *g = space.take<T>(moments_ * pixels_),
              *of_g = space.take<T>(moments_ * pixels_);
            for (int64_t i = begin; i < end; ++i) channel(i / channels_, i % channels_, a, of_a, g, of_g);
        };
        if (call_.forward.work < serial_below)
            some(0, items);
        else
            parallel_ranges(items, some);
    }

  private:
    void channel(int64_t n, int64_t c, T* a, T* of_a, T* g, T* of_g) const {
        const ArrayView &activations = call_.forward.activations, &gradients = call_.forward.gradients;
        const int64_t first = n * activations.strides[0] + c * activations.strides[1];
        SlopeRows<T> rows{pixels_, a, g, nullptr, of_a, of_g};
        rows.activations = row(activations_, activations, first, a);
        std::fill_n(of_a, pixels_, T(0));
        for (int64_t k = 0; k < classes_; ++k) {
            const int64_t at = n * gradients.strides[0] + k * gradients.strides[1] + c * gradients.strides[2];
            if (moments_ == 1)
                rows.gradients = row(gradients_, gradients, at, g);
            else
                for (int64_t m = 0; m < moments_; ++m)
                    gradients_.copy(at + m * call_.forward.moments_step, 1, 0, pixels_, g + m * pixels_);
            rows.scores = call_.scores.at<const T>((n * classes_ + k) * pixels_);
            rule_(rows, static_cast<T>(call_.forward.options.weight_eps));
            const ArrayView& to = call_.of_gradients;
            const int64_t into = n * to.strides[0] + k * to.strides[1] + c * to.strides[2];
            if (even_)
                store_one(to, into, call_.of_weights ? of_g[0] * static_cast<T>(pixels_) : of_g[0]);
            else
                for (int64_t m = 0; m < moments_; ++m)
                    store_channel(of_g + m * pixels_, to, into + m * call_.of_moments_step);
        }
        const ArrayView& to = call_.of_activations;
        store_channel<T>(of_a, to, n * to.strides[0] + c * to.strides[1]);
    }

    // Where a dense row of T lies, or its copy in `buffer`.
    static const T* row(const TileReader<T>& reader, const ArrayView& array, int64_t offset, T* buffer) {
        if (reader.in_place() && array.dtype == (sizeof(T) == 8 ? DType::float64 : DType::float32))
            return array.at<const T>(offset);
        reader.copy(offset, 1, 0, reader.pixels(), buffer);
        return buffer;
    }
    static void store_one(const ArrayView& to, int64_t offset, T value) {
        visit_dtype(to.dtype, [&](auto element) {
            using Element = decltype(element);
            if constexpr (std::is_same_v<WideOf<Element>, T>) *to.at<Element>(offset) = narrow<Element>(value);
        });
    }

    const CamBackwardCall& call_;
    const int64_t channels_, classes_, pixels_;
    const TileReader<T> activations_, gradients_;
    int64_t moments_ = 1;
    bool even_ = true;  // one value is written for all pixels
    void (*rule_)(const SlopeRows<T>& rows, T eps) = nullptr;
};

}  // namespace

void cam_backward(const CamBackwardCall& call) {
    if (call.of_activations.shape.count() == 0) return;  // without classes they are zero
    if (call.forward.activations.dtype == DType::float64)
        CamBackward<double>(call).run();
    else
        CamBackward<float>(call).run();
}

}  // namespace fusedcam::cpu
