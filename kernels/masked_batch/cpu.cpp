// masked_batch: see reference.py, which defines it.
#include <cmath>

#include "arrays.hpp"
#include "resampling.hpp"
#include "scanning.hpp"

namespace camrt {
namespace {

struct Options {
    bool normalise_first;
    double epsilon;
};

// One image under one mask. `map` is h × w, `scratch` holds h × w + h × width + width numbers, `image` and
// `out` are channels × height × width. Returns false, leaving `out` alone, when the mask is zeros by rule.
template <class T>
CAMRT_INLINE bool mask_body(const Upsampling<T>& up, Options options, const T* map, const T* image,
                            Index channels, T* scratch, T* out) {
    const Index cells = up.h * up.w;
    if (any_not_finite(map, cells)) return false;
    Range<T> range = range_of(map, cells);
    T spread = range.high - range.low;
    if (spread == 0 || !std::isfinite(spread)) return false;

    const T epsilon = static_cast<T>(options.epsilon);
    T* normalised = scratch;
    T* stretched = normalised + cells;
    T* CAMRT_RESTRICT mask = stretched + up.h * up.width;
    if (options.normalise_first) {
        for (Index i = 0; i < cells; ++i) normalised[i] = (map[i] - range.low) / (spread + epsilon);
        stretch_rows(up, normalised, stretched);
    } else {
        stretch_rows(up, map, stretched);
        for (Index i = 0; i < up.height; ++i) {
            blend_row(up, stretched, i, mask);
            const Range<T> row = range_of(mask, up.width);
            if (i == 0) range = row;
            range.low = std::min(range.low, row.low);
            range.high = std::max(range.high, row.high);
        }
        spread = range.high - range.low;
        if (spread == 0) return false;
    }
    const T low = range.low;
    const T divisor = spread + epsilon;
    const Index width = up.width;
    for (Index i = 0; i < up.height; ++i) {
        blend_row(up, stretched, i, mask);
        if (!options.normalise_first) {
            for (Index j = 0; j < width; ++j) mask[j] = (mask[j] - low) / divisor;
        }
        for (Index c = 0; c < channels; ++c) {
            const Index at = (c * up.height + i) * width;
            const T* CAMRT_RESTRICT from = image + at;
            T* CAMRT_RESTRICT to = out + at;
            for (Index j = 0; j < width; ++j) to[j] = from[j] * mask[j];
        }
    }
    return true;
}

CAMRT_CLONES bool mask_one(const Upsampling<float>& up, Options options, const float* map, const float* image,
                           Index channels, float* scratch, float* out) {
    return mask_body(up, options, map, image, channels, scratch, out);
}

CAMRT_CLONES bool mask_one(const Upsampling<double>& up, Options options, const double* map,
                           const double* image, Index channels, double* scratch, double* out) {
    return mask_body(up, options, map, image, channels, scratch, out);
}

template <class T>
py::array_t<bool> masked_batch(const Array<T>& activations, const Array<T>& images, const Indices& batch_index,
                               const Indices& channel, Array<T>& out, bool normalise_first, bool align_corners,
                               double epsilon, Index threads) {
    require(activations.ndim() == 4 && images.ndim() == 4 && out.ndim() == 4, "wrong number of axes");
    require(activations.shape(2) > 0 && activations.shape(3) > 0, "activations without cells");
    require(activations.shape(0) == images.shape(0), "activations and images differ in length");
    const Index batch = out.shape(0);
    require(batch_index.size() == batch && channel.size() == batch,
            "batch_index and channel must be as long as out");
    for (int axis = 1; axis < 4; ++axis) {
        require(out.shape(axis) == images.shape(axis), "out and images differ in shape");
    }
    require(within(batch_index, activations.shape(0)) && within(channel, activations.shape(1)),
            "index out of range");

    const Index maps_of_image = activations.shape(1);
    const Index channels = images.shape(1);
    py::array_t<bool> constant(batch);
    bool* flags = constant.mutable_data();
    const T* maps = activations.data();
    const T* from = images.data();
    T* to = out.mutable_data();
    const std::int64_t* index = batch_index.data();
    const std::int64_t* chosen = channel.data();
    const Options options{normalise_first, epsilon};
    {
        const py::gil_scoped_release release;
        const Upsampling<T> up(activations.shape(2), activations.shape(3), images.shape(2), images.shape(3),
                               align_corners);
        const Index cells = up.h * up.w;
        const Index pixels = channels * up.height * up.width;
        parallel_for(batch, useful_threads(threads, batch * pixels), [&](Index begin, Index end) {
            const Scratch<T> scratch(cells + (up.h + 1) * up.width);
            for (Index b = begin; b < end; ++b) {
                const T* map = maps + (index[b] * maps_of_image + chosen[b]) * cells;
                T* result = to + b * pixels;
                flags[b] = !mask_one(up, options, map, from + index[b] * pixels, channels, scratch.get(), result);
                if (flags[b]) std::fill_n(result, pixels, T{0});
            }
        });
    }
    return constant;
}

template <class T>
void define(py::module_& module) {
    module.def("masked_batch", &masked_batch<T>, py::arg("activations").noconvert(),
               py::arg("images").noconvert(), py::arg("batch_index").noconvert(), py::arg("channel").noconvert(),
               py::arg("out").noconvert(), py::arg("normalise_first"), py::arg("align_corners"),
               py::arg("epsilon"), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_masked_batch(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
