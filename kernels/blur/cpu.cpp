// blur: see reference.py, which defines it.
#include "arrays.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

// Where a place beyond the border of `length` is read; -1 for nothing.
Index source(Index place, Index length, bool mirror) {
    if (place >= 0 && place < length) return place;
    if (!mirror) return -1;
    return place < 0 ? -place : 2 * (length - 1) - place;
}

// One plane of height × width. `wide` holds height × width numbers, `row` width + taps − 1.
template <class T>
CAMRT_INLINE void blur_body(const T* plane, Index height, Index width, const double* CAMRT_RESTRICT weights, Index taps,
                            bool mirror, double* CAMRT_RESTRICT wide, double* CAMRT_RESTRICT row, T* out) {
    const Index reach = taps / 2;
    // Columns first, whole rows at a time, as the definition has it.
    for (Index i = 0; i < height; ++i) {
        double* CAMRT_RESTRICT to = wide + i * width;
        for (Index j = 0; j < width; ++j) to[j] = 0;
        for (Index k = 0; k < taps; ++k) {
            const Index at = source(i + k - reach, height, mirror);
            if (at < 0) continue;
            const T* CAMRT_RESTRICT from = plane + at * width;
            const double weight = weights[k];
            for (Index j = 0; j < width; ++j) to[j] += weight * static_cast<double>(from[j]);
        }
    }
    for (Index i = 0; i < height; ++i) {
        const double* from = wide + i * width;
        for (Index j = 0; j < width + taps - 1; ++j) {
            const Index at = source(j - reach, width, mirror);
            row[j] = at < 0 ? 0 : from[at];
        }
        double* CAMRT_RESTRICT sums = row + width + taps - 1;
        for (Index j = 0; j < width; ++j) sums[j] = 0;
        for (Index k = 0; k < taps; ++k) {
            const double weight = weights[k];
            for (Index j = 0; j < width; ++j) sums[j] += weight * row[j + k];
        }
        T* CAMRT_RESTRICT to = out + i * width;
        for (Index j = 0; j < width; ++j) to[j] = static_cast<T>(sums[j]);
    }
}

CAMRT_CLONES void blur_plane(const float* plane, Index height, Index width, const double* weights, Index taps,
                             bool mirror, double* wide, double* row, float* out) {
    blur_body(plane, height, width, weights, taps, mirror, wide, row, out);
}

CAMRT_CLONES void blur_plane(const double* plane, Index height, Index width, const double* weights, Index taps,
                             bool mirror, double* wide, double* row, double* out) {
    blur_body(plane, height, width, weights, taps, mirror, wide, row, out);
}

template <class T>
void blur(const Array<T>& images, const Array<double>& weights, bool mirror, Array<T>& out, Index threads) {
    require(images.ndim() == 4 && out.ndim() == 4 && weights.ndim() == 1, "wrong number of axes");
    for (int axis = 0; axis < 4; ++axis) {
        require(out.shape(axis) == images.shape(axis), "out and images differ in shape");
    }
    const Index planes = images.shape(0) * images.shape(1);
    const Index height = images.shape(2), width = images.shape(3), taps = weights.size();
    require(taps % 2 == 1, "an even number of weights");
    require(!mirror || (taps / 2 < height && taps / 2 < width), "weights reach beyond the images");
    const T* from = images.data();
    const double* values = weights.data();
    T* to = out.mutable_data();
    const py::gil_scoped_release release;
    parallel_for(planes, useful_threads(threads, planes * height * width * taps), [&](Index begin, Index end) {
        const Scratch<double> scratch(height * width + 2 * width + taps);
        for (Index p = begin; p < end; ++p) {
            const Index at = p * height * width;
            blur_plane(from + at, height, width, values, taps, mirror, scratch.get(),
                       scratch.get() + height * width, to + at);
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("blur", &blur<T>, py::arg("images").noconvert(), py::arg("weights").noconvert(), py::arg("mirror"),
               py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_blur(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
