// mask by CUDA's kernel on the emulator: the CPU's bits, for every type, layout and kind of map.
#include "calls.hpp"

using namespace fusedcam;
using namespace test;
using namespace fusedcam::cuda::emulator;

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

// Both backends into memory of its exact size; the elements between those of `out` stay.
void check_bits(int device, const Array& image, const Array& heatmap, const Array* noise, Normalization normalize,
                bool scrambled) {
    MaskCall call = plan_mask(image.view(), heatmap.view(), noise ? &noise->view() : nullptr, normalize);
    const DType dtype = image.view().dtype;
    Array wanted(call.result, dtype, scrambled), got(call.result, dtype, scrambled && integer(0, 1));
    got.fill(unknown);
    call.out = wanted.view();
    cpu::mask(call);
    call.out = got.view();
    run_on(device, call, cuda::mask);
    for (int64_t i = 0; i < got.view().shape.count(); ++i)
        CHECK(got.get(i) == wanted.get(i) || (std::isnan(got.get(i)) && std::isnan(wanted.get(i))),
              "%s image, %s heatmap, element %d: %g for %g", name(dtype), name(heatmap.view().dtype), int(i),
              got.get(i), wanted.get(i));
}

}  // namespace

TEST_CASE(mask_has_the_cpus_bits) {
    begin();
    for (int round = 0; round < rounds(120); ++round) {
        choose_order(round);
        const bool batched = round % 3, several = round % 4;
        const int64_t N = integer(1, 3), M = integer(1, 3);
        // A multiple of four, so that runs are read and written at once, as often as not.
        const int64_t height = integer(1, 30), width = round % 2 ? 4 * integer(1, 9) : integer(1, 40);
        Shape pictures = shape_of({}), maps = shape_of({}), masks = shape_of({});
        if (batched)
            for (Shape* shape : {&pictures, &maps, &masks}) shape->append(N);
        if (several)
            for (Shape* shape : {&maps, &masks}) shape->append(M);
        pictures.append(integer(1, 4));
        for (Shape* shape : {&pictures, &masks}) {
            shape->append(height);
            shape->append(width);
        }
        maps.append(integer(1, 12));
        maps.append(integer(1, 12));
        Array image(pictures, any_floating(), round % 5 == 0), heatmap(maps, any_floating(), round % 7 == 0);
        Array noise(masks, result_dtype(heatmap.view().dtype), round % 5 == 1);
        for (Array* array : {&image, &heatmap, &noise}) array->fill_normal();
        if (round % 6 == 0) heatmap.set(0, unknown);
        if (round % 11 == 0) heatmap.fill(integer(-1, 1));
        check_bits(devices[static_cast<size_t>(round) % devices.size()], image, heatmap, round % 2 ? &noise : nullptr,
                   any_normalize(), round % 3 == 0);
    }
}

TEST_CASE(maps_that_no_block_can_hold_as_masks) {
    if (thread_sanitizer) return;  // find_ranges is resize's
    begin();
    Array image(shape_of({2, 64, 60}), DType::float16), heatmap(shape_of({2, 190, 170}), DType::float32);
    image.fill_normal();
    heatmap.fill_normal();
    for (const int device : {h100, t4}) check_bits(device, image, heatmap, nullptr, Normalize::minmax, false);
}
