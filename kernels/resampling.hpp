// Separable bilinear resampling; see resampling.py, which defines it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "parallel.hpp"
#include "targets.hpp"

namespace camrt {

// Where each output sample of one axis falls: (1 - t) x[lower] + t x[upper].
template <class T>
struct AxisTable {
    std::vector<Index> lower, upper;
    std::vector<T> t;

    AxisTable(Index n_in, Index n_out, bool align_corners)
        : lower(static_cast<std::size_t>(n_out)), upper(lower.size()), t(lower.size()) {
        const double inputs = static_cast<double>(align_corners ? n_in - 1 : n_in);
        const double outputs = static_cast<double>(align_corners ? n_out - 1 : n_out);
        const double scale = outputs > 0 ? inputs / outputs : 0;
        for (std::size_t i = 0; i < lower.size(); ++i) {
            const double at = static_cast<double>(i);
            const double source = align_corners ? at * scale : std::max((at + 0.5) * scale - 0.5, 0.0);
            lower[i] = std::min(static_cast<Index>(source), n_in - 1);
            upper[i] = std::min(lower[i] + 1, n_in - 1);
            t[i] = static_cast<T>(std::clamp(source - static_cast<double>(lower[i]), 0.0, 1.0));
        }
    }
};

// The tables of both axes, with the sizes that they lead between.
template <class T>
struct Upsampling {
    Index h, w, height, width;
    AxisTable<T> rows, columns;

    Upsampling(Index h_, Index w_, Index height_, Index width_, bool align_corners)
        : h(h_), w(w_), height(height_), width(width_), rows(h_, height_, align_corners),
          columns(w_, width_, align_corners) {}
};

// Stretches every row of an h × w map to the width asked for; `stretched` is h × width.
template <class T>
CAMRT_INLINE void stretch_rows(const Upsampling<T>& up, const T* map, T* stretched) {
    const Index* lower = up.columns.lower.data();
    const Index* upper = up.columns.upper.data();
    const T* t = up.columns.t.data();
    for (Index r = 0; r < up.h; ++r, map += up.w, stretched += up.width) {
        for (Index j = 0; j < up.width; ++j) {
            stretched[j] = map[lower[j]] + t[j] * (map[upper[j]] - map[lower[j]]);
        }
    }
}

// Makes row i of the result out of the two stretched rows that it lies between.
template <class T>
CAMRT_INLINE void blend_row(const Upsampling<T>& up, const T* stretched, Index i, T* CAMRT_RESTRICT row) {
    const std::size_t at = static_cast<std::size_t>(i);
    const T* CAMRT_RESTRICT above = stretched + up.rows.lower[at] * up.width;
    const T* CAMRT_RESTRICT below = stretched + up.rows.upper[at] * up.width;
    const T t = up.rows.t[at];
    const Index width = up.width;
    for (Index j = 0; j < width; ++j) row[j] = above[j] + t * (below[j] - above[j]);
}

}  // namespace camrt
