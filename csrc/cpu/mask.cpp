// mask on the CPU: each row of a map is resampled, normalised and multiplied with the image's rows while it is in
// cache, so that no map of the image's size exists.
#include "resample.hpp"

namespace fusedcam::cpu {
namespace {

// Rows of T, from an image of Elements.
template <class T, class Element>
class Masker {
  public:
    explicit Masker(const MaskCall& call)
        : call_(call), maps_(call.heatmap.extent(1)), channels_(call.image.extent(1)), width_(call.image.extent(3)) {}

    // Bytes of scratch memory.
    size_t bytes() const { return Workspace::bytes<Wide>(width_) + 2 * Workspace::bytes<Element>(width_); }

    // Row y of the map `index` into each channel of its image.
    void write(int64_t index, int64_t y, T* row, Workspace& space) const {
        if (call_.noise.data) add_noise(index, y, row);
        auto* wide = space.take<Wide>(width_);
        auto *gathered = space.take<Element>(width_), *scattered = space.take<Element>(width_);
        const Wide* mask = nullptr;
        if constexpr (std::is_same_v<T, Wide>) {
            mask = row;
        } else {
            for (int64_t x = 0; x < width_; ++x) wide[x] = static_cast<Wide>(row[x]);
            mask = wide;
        }
        const ArrayView image = call_.image.sub(index / maps_, 3), out = call_.out.sub(index, 3);
        for (int64_t c = 0; c < channels_; ++c) {
            const Element* from = image.at<const Element>(c * image.strides[0] + y * image.strides[1]);
            if (image.strides[2] != 1) {
                for (int64_t x = 0; x < width_; ++x) gathered[x] = from[x * image.strides[2]];
                from = gathered;
            }
            Element* to = out.at<Element>(c * out.strides[0] + y * out.strides[1]);
            const bool dense = out.strides[2] == 1;
            multiply_(mask, from, width_, dense ? to : scattered);
            if (!dense)
                for (int64_t x = 0; x < width_; ++x) to[x * out.strides[2]] = scattered[x];
        }
    }

  private:
    using Wide = WideOf<Element>;

    void add_noise(int64_t index, int64_t y, T* row) const {
        const ArrayView& noise = call_.noise;
        const T* from = noise.at<const T>(noise.offset(index, 2) + y * noise.strides[2]);
        for (int64_t x = 0; x < width_; ++x) row[x] += from[x * noise.strides[3]];
    }

    const MaskCall& call_;
    const int64_t maps_, channels_, width_;
    const MaskKernels::Multiply<Element> multiply_ = kernels().mask.multiply<Element>();
};

template <class T, class Element>
void run(const MaskCall& call) {
    const Masker<T, Element> masker(call);
    for_each_map<T>(
        call.heatmap, {call.image.extent(2), call.image.extent(3)}, call.normalize, call.work,
        [&](int64_t index, const Resampled<T>& map, const Rescale<T>& rescale, int64_t begin, int64_t end, T* row) {
            Workspace space(masker.bytes());
            for (int64_t y = begin; y < end; ++y) {
                map.row(y, rescale, row);
                space.reset();
                masker.write(index, y, row, space);
            }
        });
}

}  // namespace

void mask(const MaskCall& call) {
    if (call.result.count() == 0) return;
    visit_dtype(call.image.dtype, [&](auto element) {
        using Element = decltype(element);
        if constexpr (!std::is_same_v<Element, uint8_t>) {
            if (call.heatmap.dtype == DType::float64)
                run<double, Element>(call);
            else
                run<float, Element>(call);
        }
    });
}

}  // namespace fusedcam::cpu
