// partial_products: see reference.py, which defines it, and README.md for the order of the loops.
#include <utility>

#include "arrays.hpp"
#include "scanning.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

constexpr Index kLanes = 16;           // numbers of the widest vector of float
constexpr Index kFeatures = 16;        // rows of the weight worked on together: one cache line of output
constexpr Index kChannels = 128;       // channels worked on together, at most
constexpr Index kResident = 1 << 16;   // numbers of u that stay in cache meanwhile

constexpr Index kAhead = 4096;         // bytes of the weight between what is fetched and what is used

// Asks for `count` numbers that lie kAhead bytes after `from`; they need not exist.
template <class T>
CAMRT_INLINE void prefetch(const T* from, Index count) {
#if defined(__GNUC__) || defined(__clang__)
    const char* at = reinterpret_cast<const char*>(from) + kAhead;
    const Index bytes = count * static_cast<Index>(sizeof(T));
    for (Index i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
#else
    static_cast<void>(from), static_cast<void>(count);
#endif
}

struct Shape {
    Index images, features, channels, cells;

    Index plane() const { return channels * cells; }
    Index channel_block() const {
        const Index fitting = kResident / std::max<Index>(1, images * cells);
        return std::max<Index>(1, std::min({fitting, channels, kChannels}));
    }
};

// Inner products of kLanes pairs of consecutive rows, each `cells` long: sum[r] = a[r] . b[r]. The lanes of all
// of them are added in pairs, level by level, so that no row is added up by itself.
template <class T>
CAMRT_INLINE void inner_products(const T* CAMRT_RESTRICT a, const T* CAMRT_RESTRICT b, Index cells,
                                 T* CAMRT_RESTRICT sum) {
    constexpr Index kAll = kLanes * kLanes;
    T lanes[kAll];
    T tail[kLanes];
    const Index whole = cells / kLanes * kLanes;
    for (Index r = 0; r < kLanes; ++r, a += cells, b += cells) {
        T lane[kLanes] = {};
        for (Index i = 0; i < whole; i += kLanes) {
            for (Index j = 0; j < kLanes; ++j) lane[j] += a[i + j] * b[i + j];
        }
        for (Index j = 0; j < kLanes; ++j) lanes[r * kLanes + j] = lane[j];
        tail[r] = 0;
        for (Index i = whole; i < cells; ++i) tail[r] += a[i] * b[i];
    }
    T half[kAll / 2], quarter[kAll / 4], eighth[kAll / 8];
    for (Index i = 0; i < kAll / 2; ++i) half[i] = lanes[2 * i] + lanes[2 * i + 1];
    for (Index i = 0; i < kAll / 4; ++i) quarter[i] = half[2 * i] + half[2 * i + 1];
    for (Index i = 0; i < kAll / 8; ++i) eighth[i] = quarter[2 * i] + quarter[2 * i + 1];
    for (Index i = 0; i < kLanes; ++i) sum[i] = (eighth[2 * i] + eighth[2 * i + 1]) + tail[i];
}

// Writes out (N, K, F) for `count` features, from their first one on; partial is (N, channel_block, kFeatures).
template <class T>
CAMRT_INLINE void by_channel_body(Shape s, const T* weight, const T* u, Index count, T* partial, T* out) {
    const Index block = s.channel_block();
    for (Index first = 0; first < s.channels; first += block) {
        const Index size = std::min(block, s.channels - first);
        for (Index f = 0; f < count; ++f) {
            const T* rows = weight + f * s.plane() + first * s.cells;
            const T* maps = u + first * s.cells;
            Index k = 0;
            for (; k + kLanes <= size; k += kLanes) {
                prefetch(rows + k * s.cells, kLanes * s.cells);
                for (Index n = 0; n < s.images; ++n) {
                    T sum[kLanes];
                    inner_products(rows + k * s.cells, maps + n * s.plane() + k * s.cells, s.cells, sum);
                    T* to = partial + (n * block + k) * kFeatures + f;
                    for (Index r = 0; r < kLanes; ++r) to[r * kFeatures] = sum[r];
                }
            }
            for (; k < size; ++k) {
                for (Index n = 0; n < s.images; ++n) {
                    partial[(n * block + k) * kFeatures + f] =
                        inner_product(rows + k * s.cells, maps + n * s.plane() + k * s.cells, s.cells);
                }
            }
        }
        for (Index n = 0; n < s.images; ++n) {
            for (Index k = 0; k < size; ++k) {
                T* to = out + (n * s.channels + first + k) * s.features;
                const T* from = partial + (n * block + k) * kFeatures;
                for (Index f = 0; f < count; ++f) to[f] = from[f];
            }
        }
    }
}

// Writes out (N, L, F) for `count` features, from their first one on; partial is (N, kFeatures, L) and kLanes rows.
// kLanes maps lie end to end, a whole number of vectors, and are added to as one row; that row is then folded.
template <class T>
CAMRT_INLINE void by_cell_body(Shape s, const T* weight, const T* u, Index count, T* partial, T* out) {
    const Index block = s.channel_block();
    const Index cells = s.cells;
    const Index row = kLanes * cells;
    T* CAMRT_RESTRICT sum = partial + s.images * kFeatures * cells;
    for (Index i = 0; i < s.images * kFeatures * cells; ++i) partial[i] = 0;
    for (Index first = 0; first < s.channels; first += block) {
        const Index size = std::min(block, s.channels - first) * cells;
        for (Index f = 0; f < count; ++f) {
            const T* CAMRT_RESTRICT from = weight + f * s.plane() + first * cells;
            for (Index n = 0; n < s.images; ++n) {
                const T* CAMRT_RESTRICT maps = u + n * s.plane() + first * cells;
                const Index head = std::min(row, size);
                for (Index i = 0; i < head; ++i) sum[i] = from[i] * maps[i];
                for (Index start = row; start < size; start += row) {
                    const Index length = std::min(row, size - start);
                    if (n == 0) prefetch(from + start, length);
                    const T* CAMRT_RESTRICT a = from + start;
                    const T* CAMRT_RESTRICT b = maps + start;
                    for (Index i = 0; i < length; ++i) sum[i] += a[i] * b[i];
                }
                T* CAMRT_RESTRICT total = partial + (n * kFeatures + f) * cells;
                for (Index start = 0; start < head; start += cells) {
                    for (Index l = 0; l < cells; ++l) total[l] += sum[start + l];
                }
            }
        }
    }
    for (Index n = 0; n < s.images; ++n) {
        for (Index l = 0; l < cells; ++l) {
            for (Index f = 0; f < count; ++f) {
                out[(n * cells + l) * s.features + f] = partial[(n * kFeatures + f) * cells + l];
            }
        }
    }
}

CAMRT_CLONES void multiply(Shape s, bool by_channel, const float* weight, const float* u, Index count,
                           float* partial, float* out) {
    if (by_channel) {
        by_channel_body(s, weight, u, count, partial, out);
    } else {
        by_cell_body(s, weight, u, count, partial, out);
    }
}

CAMRT_CLONES void multiply(Shape s, bool by_channel, const double* weight, const double* u, Index count,
                           double* partial, double* out) {
    if (by_channel) {
        by_channel_body(s, weight, u, count, partial, out);
    } else {
        by_cell_body(s, weight, u, count, partial, out);
    }
}

template <class T>
void partial_products(const Array<T>& weight, const Array<T>& u, bool by_channel, Array<T>& out, Index threads) {
    require(weight.ndim() == 3 && u.ndim() == 3 && out.ndim() == 3, "wrong number of axes");
    Shape s{u.shape(0), weight.shape(0), weight.shape(1), weight.shape(2)};
    require(u.shape(1) == s.channels && u.shape(2) == s.cells, "u and weight differ in shape");
    require(out.shape(0) == s.images && out.shape(1) == (by_channel ? s.channels : s.cells) &&
                out.shape(2) == s.features,
            "out has the wrong shape");
    const T* weights = weight.data();
    const T* from = u.data();
    T* to = out.mutable_data();
    const py::gil_scoped_release release;
    if (s.cells == 1) {  // a single cell is summed over K, each channel is not summed: the loops change places
        std::swap(s.channels, s.cells);
        by_channel = !by_channel;
    }
    const Index blocks = (s.features + kFeatures - 1) / kFeatures;
    const Index work = s.images * s.features * s.plane() / 4;
    parallel_for(blocks, useful_threads(threads, work), [&](Index begin, Index end) {
        const Index rows = by_channel ? s.images * s.channel_block() : s.images * s.cells;
        const Scratch<T> partial(rows * kFeatures + kLanes * s.cells);
        for (Index i = begin; i < end; ++i) {
            const Index first = i * kFeatures;
            multiply(s, by_channel, weights + first * s.plane(), from, std::min(kFeatures, s.features - first),
                     partial.get(), to + first);
        }
    });
}

template <class T>
void define(py::module_& module) {
    module.def("partial_products", &partial_products<T>, py::arg("weight").noconvert(),
               py::arg("u").noconvert(), py::arg("by_channel"), py::arg("out").noconvert(), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_partial_products(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
