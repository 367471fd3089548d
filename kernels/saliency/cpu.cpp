// saliency: see reference.py, which defines it.
#include <cmath>

#include "arrays.hpp"
#include "resampling.hpp"
#include "scanning.hpp"

namespace camrt {
namespace {

enum Flag : std::uint8_t { kOk = 0, kConstant = 1, kNothingPositive = 2, kNotFinite = 3 };

struct Options {
    bool library, minmax, relu;

    bool by_max() const { return !library && !minmax; }
};

constexpr double kLibraryEpsilon = 1e-7;

template <class T>
CAMRT_INLINE Flag flag_of(Options options, const T* raw, Index cells) {
    if (any_not_finite(raw, cells)) return kNotFinite;
    const Range<T> range = range_of(raw, cells);
    if (!std::isfinite(range.high - range.low)) return kNotFinite;
    if (range.low == range.high) return kConstant;
    if ((options.relu || options.by_max()) && range.high <= 0) return kNothingPositive;
    if (!options.relu && options.by_max() && !std::isfinite(range.low / range.high)) return kNotFinite;
    return kOk;
}

// One map from h × w to height × width; `scratch` holds h × w + h × width numbers. Leaves `out` alone when the
// flag is not kOk.
template <class T>
CAMRT_INLINE Flag map_body(const Upsampling<T>& up, Options options, const T* raw, T* scratch, T* out) {
    const Index cells = up.h * up.w;
    const Flag flag = flag_of(options, raw, cells);
    if (flag != kOk) return flag;

    T* low = scratch;
    T* stretched = low + cells;
    for (Index i = 0; i < cells; ++i) low[i] = options.relu && raw[i] < 0 ? T{0} : raw[i];
    const Range<T> range = range_of(low, cells);
    const T base = options.by_max() ? T{0} : range.low;
    const T divisor = range.high - base + (options.library ? static_cast<T>(kLibraryEpsilon) : T{0});
    for (Index i = 0; i < cells; ++i) low[i] = (low[i] - base) / divisor;
    stretch_rows(up, low, stretched);

    const Index width = up.width;
    for (Index i = 0; i < up.height; ++i) {
        T* CAMRT_RESTRICT row = out + i * width;
        blend_row(up, stretched, i, row);
        if (!options.library) {
            for (Index j = 0; j < width; ++j) row[j] = row[j] < 0 ? T{0} : (row[j] > 1 ? T{1} : row[j]);
        }
    }
    if (options.library) {
        const Index pixels = up.height * width;
        const Range<T> again = range_of(out, pixels);
        const T least = again.low;
        const T most = again.high - least + static_cast<T>(kLibraryEpsilon);
        for (Index i = 0; i < pixels; ++i) out[i] = (out[i] - least) / most;
    }
    return kOk;
}

CAMRT_CLONES Flag map_one(const Upsampling<float>& up, Options options, const float* raw, float* scratch,
                          float* out) {
    return map_body(up, options, raw, scratch, out);
}

CAMRT_CLONES Flag map_one(const Upsampling<double>& up, Options options, const double* raw, double* scratch,
                          double* out) {
    return map_body(up, options, raw, scratch, out);
}

template <class T>
void saliency(const Array<T>& raw, Array<T>& maps, Array<std::uint8_t>& flags, bool library, bool minmax,
              bool relu, bool align_corners, Index threads) {
    require(raw.ndim() == 3 && maps.ndim() == 3, "wrong number of axes");
    const Index count = raw.shape(0);
    require(raw.shape(1) > 0 && raw.shape(2) > 0, "raw without cells");
    require(maps.shape(0) == count && flags.size() == count, "raw, maps and flags differ in length");
    const Options options{library, minmax, relu};
    const T* from = raw.data();
    T* to = maps.mutable_data();
    std::uint8_t* flag = flags.mutable_data();
    const py::gil_scoped_release release;
    const Upsampling<T> up(raw.shape(1), raw.shape(2), maps.shape(1), maps.shape(2), align_corners);
    const Index cells = up.h * up.w;
    const Index pixels = up.height * up.width;
    parallel_for(count, useful_threads(threads, count * pixels), [&](Index begin, Index end) {
        const Scratch<T> scratch(cells + up.h * up.width);
        for (Index m = begin; m < end; ++m) {
            T* result = to + m * pixels;
            flag[m] = map_one(up, options, from + m * cells, scratch.get(), result);
            if (flag[m] != kOk) std::fill_n(result, pixels, T{0});
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("saliency", &saliency<T>, py::arg("raw").noconvert(), py::arg("maps").noconvert(),
               py::arg("flags").noconvert(), py::arg("library"), py::arg("minmax"), py::arg("relu"),
               py::arg("align_corners"), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_saliency(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
