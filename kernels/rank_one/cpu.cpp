// rank_one: see reference.py, which defines it.
#include "arrays.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

// One result (F, L): base (F, L) less weight (F,) times map (L,).
template <class T>
CAMRT_INLINE void subtract_body(const T* CAMRT_RESTRICT base, const T* CAMRT_RESTRICT weight,
                                const T* CAMRT_RESTRICT map, Index features, Index length,
                                T* CAMRT_RESTRICT out) {
    if (length == 1) {  // pooled inputs: the features are the long axis
        const T value = map[0];
        for (Index f = 0; f < features; ++f) out[f] = base[f] - weight[f] * value;
        return;
    }
    for (Index f = 0; f < features; ++f, base += length, out += length) {
        const T factor = weight[f];
        for (Index l = 0; l < length; ++l) out[l] = base[l] - factor * map[l];
    }
}

CAMRT_CLONES void subtract(const float* base, const float* weight, const float* map, Index features,
                           Index length, float* out) {
    subtract_body(base, weight, map, features, length, out);
}

CAMRT_CLONES void subtract(const double* base, const double* weight, const double* map, Index features,
                           Index length, double* out) {
    subtract_body(base, weight, map, features, length, out);
}

template <class T>
void rank_one(const Array<T>& base, const Array<T>& weight, const Array<T>& activations,
              const Indices& batch_index, const Indices& channel, Array<T>& out, Index threads) {
    require(base.ndim() == 3 && weight.ndim() == 2 && activations.ndim() == 3 && out.ndim() == 3,
            "wrong number of axes");
    const Index images = base.shape(0), features = base.shape(1), length = base.shape(2);
    const Index channels = weight.shape(0), batch = out.shape(0);
    require(weight.shape(1) == features, "weight and base differ in features");
    require(activations.shape(0) == images && activations.shape(1) == channels &&
                activations.shape(2) == length,
            "activations do not match base and weight");
    require(out.shape(1) == features && out.shape(2) == length, "out and base differ in shape");
    require(batch_index.size() == batch && channel.size() == batch,
            "batch_index and channel must be as long as out");
    require(within(batch_index, images) && within(channel, channels), "index out of range");
    const T* whole = base.data();
    const T* weights = weight.data();
    const T* maps = activations.data();
    T* to = out.mutable_data();
    const std::int64_t* index = batch_index.data();
    const std::int64_t* chosen = channel.data();
    const py::gil_scoped_release release;
    const Index size = features * length;
    parallel_for(batch, useful_threads(threads, batch * size), [&](Index begin, Index end) {
        for (Index b = begin; b < end; ++b) {
            const T* map = maps + (index[b] * channels + chosen[b]) * length;
            subtract(whole + index[b] * size, weights + chosen[b] * features, map, features, length,
                     to + b * size);
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("rank_one", &rank_one<T>, py::arg("base").noconvert(), py::arg("weight").noconvert(),
               py::arg("activations").noconvert(), py::arg("batch_index").noconvert(),
               py::arg("channel").noconvert(), py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_rank_one(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
